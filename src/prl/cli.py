"""prl <command>: the command line. Nothing heavy is imported until a command runs.

Exit status: 0 done; 1 failed, or interrupted by Ctrl-C; 2 usage. What the user can act on is one line on
stderr; a traceback is a bug in prl.
"""

from __future__ import annotations

import argparse
import codecs
import dataclasses
import importlib
import inspect
import os
import shutil
import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NoReturn, get_args, get_origin, get_type_hints

from prl import __version__, recipes
from prl.errors import PrlError, UsageError, nearest
from prl.settings import arguments

if TYPE_CHECKING:
    from prl.settings import Settings

MODULES = {
    "sft": "prl.sft",
    "rl": "prl.study.pipeline",
    "eval": "prl.evaluation.several",
    "demo": "prl.study.demo",
    "show": "prl.traces.showing",
    "compare": "prl.study.comparison",
    "report": "prl.study.pages",
    "rewards replay": "prl.study.reward_lab",
    "data traces": "prl.traces.factory",
    "data import": "prl.traces.importing",
    "data check": "prl.traces.inspecting",
    "data stats": "prl.traces.inspecting",
    "data show": "prl.traces.showing",
    "data mix": "prl.traces.mixing",
    "data push": "prl.traces.pushing",
    "study": "prl.study.runner",
}
"""command -> the module whose `run` gets its settings."""

SUMMARIES = {
    **{name: (cls.__doc__ or "").partition("\n")[0] for name, cls in arguments.COMMANDS.items()},
    "recipes": "List, show, copy and check recipes.",
    "answers": "Say step by step why an answer counts as right or wrong.",
    "course": "A course's notebooks, exercises and notes as a kit, and grades for what is handed in.",
}

MOST_USED = {
    "sft": "output_dir max_steps num_train_epochs learning_rate per_device_train_batch_size "
    "gradient_accumulation_steps max_length eval_strategy eval_steps save_steps report_to seed",
    "rl": "output_dir max_steps learning_rate per_device_train_batch_size gradient_accumulation_steps "
    "num_generations max_completion_length temperature beta epsilon_high eval_strategy eval_steps save_steps "
    "report_to seed",
}
"""Fields of TRL's configs that `--help` names."""

DEFAULTS_NOTE = "In brackets: what holds where neither the recipe nor a flag says otherwise."


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message}; `{self.prog} --help` shows the usage")


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return the exit status."""
    words = list(sys.argv[1:] if argv is None else argv)
    name = _name(words)
    for stream in (sys.stdout, sys.stderr):
        _let_print_all(stream)
    try:
        _dispatch(words)
        sys.stdout.flush()
        return 0
    except PrlError as error:
        if _is_to_tell(error):
            print(f"{name}: {error}", file=sys.stderr)
        return error.exit_status
    except KeyboardInterrupt as error:
        if _is_to_tell(error):
            print(f"{name}: interrupted", file=sys.stderr)
        return 1
    except BrokenPipeError:
        # The reader (`| head`) has gone; the interpreter's last flush must not complain either.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except Exception as error:
        if _is_to_tell(error):
            raise
        return 1


def _let_print_all(stream: Any) -> None:
    """Have it write `\\u221a` for a letter that its encoding lacks, where it would fail. A notebook's and a
    test's stream may not let itself be set, and there may be none."""
    fails = getattr(stream, "errors", None) in ("strict", "surrogateescape")
    if fails and hasattr(stream, "reconfigure") and codecs.lookup(stream.encoding).name != "utf-8":
        stream.reconfigure(errors="backslashreplace")


def _is_to_tell(error: BaseException) -> bool:
    from prl.runs import processes

    return processes.is_to_tell(error)


def _name(words: list[str]) -> str:
    """What messages begin with: as much of `words` as names a command."""
    known = {*SUMMARIES, *(name.partition(" ")[0] for name in arguments.COMMANDS)}
    return " ".join(["prl", *next((words[:n] for n in (2, 1) if " ".join(words[:n]) in known), [])])


def _dispatch(words: list[str]) -> None:
    if not words or words[0] in ("-h", "--help", "help"):
        print(_overview())
    elif words[0] in ("-V", "--version"):
        print(f"prl {__version__}")
    elif words[0] == "recipes":
        _recipes(words[1:])
    elif words[0] == "answers":
        _answers(words[1:])
    elif words[0] == "course":
        _course(words[1:])
    elif (two := " ".join(words[:2])) in arguments.COMMANDS:
        _command(two, words[2:])
    elif (actions := _actions(words[0])) and words[1:2] and not words[1].startswith("-"):
        known = ", ".join(f"`prl {name}`" for name in actions)
        raise UsageError(f"unknown action {words[1]!r}; there is {known}")
    elif words[0] in arguments.COMMANDS:
        _command(words[0], words[1:])
    elif actions:
        print("\n".join(map(_help, actions)), end="")
    else:
        near = nearest(words[0], SUMMARIES)
        raise UsageError(f"unknown command {words[0]!r}{near}; `prl --help` lists the commands")


def _actions(command: str) -> list[str]:
    """What `command` does by a second word."""
    return [name for name in arguments.COMMANDS if name.startswith(f"{command} ")]


def _command(command: str, words: list[str]) -> None:
    flags = words[: words.index("--")] if "--" in words else words
    if "-h" in flags or "--help" in flags:
        print(_help(command), end="")
        return

    from prl.machine import environment

    environment.settle()
    from prl import config
    from prl.runs import processes
    from prl.runs.disk import check_writable

    if "--help-trainer" in flags and command in arguments.TRAINER_CONFIGS:
        print(config.trainer_help(command), end="")
        return
    processes.check_launch(command, trains=command in arguments.TRAINER_CONFIGS)
    if command == "doctor":
        from prl import doctor

        doctor.run(*config.parse_doctor(words))
        return
    settings = config.parse(command, words)
    if settings.output_dir:
        check_writable(Path(settings.output_dir))  # before data are read, and perhaps fetched
    try:
        if command == "generate":
            _generate(settings)
        elif command == "merge":
            _merge(settings.arguments)
        elif command == "data":
            from prl.data.problems import write_sets

            write_sets(Path(settings.arguments.output_dir))
        else:
            importlib.import_module(MODULES[command]).run(settings)
    except KeyboardInterrupt:
        raise PrlError(f"interrupted; {_kept(settings)}") from None


def _generate(settings: Settings[arguments.GenerateArguments]) -> None:
    """Responses on stdout, everything else on stderr; a terminal has them in the drawing already."""
    given = settings.arguments
    given.problem = given.problem or _problem_on_stdin()
    from prl.console import console
    from prl.evaluation import respond
    from prl.report.live import can_draw, live_view

    for name, choice in settings.chosen.items():
        print(f"{name}: {choice}", file=sys.stderr)
    opening = settings.arguments.path_opening
    responses = respond(settings, view=lambda tokenizer: live_view(tokenizer, console, opening))
    is_shown = can_draw(console) and sys.stdout.isatty()
    for number, response in enumerate(responses, 1):
        if len(responses) > 1 and not is_shown:
            print(f"--- {number} of {len(responses)}")
        if not is_shown:
            print(response.text)
        if response.truncated:
            print(f"cut off at --max_completion_length {given.max_completion_length}", file=sys.stderr)


def _merge(given: arguments.MergeArguments) -> None:
    import torch

    from prl.console import quiet_libraries
    from prl.model import merge_and_verify

    quiet_libraries()
    name, folder = str(given.model_name_or_path), Path(str(given.output_dir))
    if given.gguf_type:
        from prl.model.gguf import export_gguf, refuse_unsupported
        from prl.runs import adapter_dir, base_of_adapter

        if adapter := adapter_dir(name):  # before minutes of merging
            refuse_unsupported(base_of_adapter(adapter), trust_remote_code=given.trust_remote_code)

    def tell(line: str) -> None:
        print(f"  {line}", flush=True)

    difference = merge_and_verify(
        name,
        folder,
        dtype=getattr(torch, given.save_dtype),
        samples=given.samples,
        max_completion_length=given.max_completion_length,
        seed=given.seed,
        device=given.device,
        trust_remote_code=given.trust_remote_code,
        on_proof=tell,
    )
    print(f"{folder}: a whole model, proved; its logits differ by at most {difference:.1e}", flush=True)
    if given.gguf_type:
        file = export_gguf(folder, gguf_type=given.gguf_type, on_proof=tell)
        print(f"{file}: the same as GGUF")


def _problem_on_stdin() -> str:
    problem = "" if sys.stdin is None or sys.stdin.isatty() else sys.stdin.read().strip()
    if not problem:
        raise UsageError('no problem: `prl generate "What is 17 * 23?"`, or pipe one in')
    return problem


def _kept(settings: Settings[Any]) -> str:
    """What an interrupted command leaves behind, and how to go on."""
    from prl.runs import last_checkpoint
    from prl.runs.samples import shards
    from prl.settings.stages import cold_start_of

    if settings.command == "demo":
        return "what is done is kept, and the same command goes on from it"
    if settings.command == "data traces":
        return "the answers so far are kept, and the same command with --resume goes on from them"
    if settings.command == "eval" and (settings.arguments.models or shards(Path(settings.output_dir or ""))):
        return "the samples so far are kept, and the same command with --resume goes on from them"
    if settings.trainer and (checkpoint := last_checkpoint(settings.output_dir or "")):
        if settings.trainer.save_only_model:
            return f"{checkpoint} is kept; start another run from it, with --model_name_or_path {checkpoint}"
        return f"{checkpoint} is kept, and the same command with --resume goes on from it"
    stages = settings.arguments.stages if settings.command == "rl" else None
    begun = cold_start_of(stages, settings.output_dir)
    if begun and ((begun / "DONE").exists() or last_checkpoint(begun)):
        return "the cold start is kept, and the same command with --resume goes on"
    again = " with --overwrite_output_dir" if hasattr(settings.arguments, "overwrite_output_dir") else ""
    return f"no checkpoint was written; the same command{again} starts over"


def _recipes(words: list[str]) -> None:
    parser = _Parser(prog="prl recipes", description=SUMMARIES["recipes"])
    actions = parser.add_subparsers(dest="action", parser_class=_Parser, metavar="{list,show,cp,validate}")
    actions.add_parser("list", help="the recipes that ship (the default)")
    show = actions.add_parser("show", help="print one")
    show.add_argument("recipe", metavar="NAME")
    copy = actions.add_parser("cp", help="copy one to a file of yours, to change it")
    copy.add_argument("recipe", metavar="NAME")
    copy.add_argument("file", metavar="FILE", type=Path)
    validate = actions.add_parser("validate", help="check a recipe for every command that it steers")
    validate.add_argument("recipe", metavar="NAME|FILE")
    given = parser.parse_args(words)
    if given.action == "show":
        print(recipes.locate(given.recipe).read_text(encoding="utf-8"), end="")
    elif given.action == "cp":
        _copy_recipe(recipes.locate(given.recipe), given.file)
    elif given.action == "validate":
        from prl import config

        print(f"{given.recipe}: valid for {', '.join(config.validate(given.recipe))}")
    else:
        width = max(map(len, recipes.NAMES)) + 2
        for name in recipes.NAMES:
            print(f"{name:{width}}{recipes.title(name)}")
        print(
            "\nOverlays, on top of a recipe (`--recipe tiny+scaffold`), or alone on what suits this machine:"
        )
        width = max(map(len, recipes.OVERLAYS)) + 2
        for name in recipes.OVERLAYS:
            print(f"{name:{width}}{recipes.title(name)}")


def _copy_recipe(source: Path, target: Path) -> None:
    if target.is_dir():
        target /= source.name
    try:
        with target.open("xb") as file:
            file.write(source.read_bytes())
    except FileExistsError:
        raise UsageError(f"{target} exists; name another file") from None
    except OSError as error:
        raise UsageError(f"{target} cannot be written: {error.strerror}") from None
    print(f"{target}: change it, then `prl recipes validate {target}` and `prl sft --recipe {target}`")


def _answers(words: list[str]) -> None:
    parser = _Parser(prog="prl answers", description=SUMMARIES["answers"])
    actions = parser.add_subparsers(dest="action", parser_class=_Parser, required=True)
    explain = actions.add_parser("explain", help="how PRED is judged against GOLD")
    explain.add_argument("pred", metavar="PRED", help="a response or an answer")
    explain.add_argument("gold", metavar="GOLD", help="the right answer")
    if words[:1] == ["explain"] and not {"-h", "--help", "--"} & {*words}:
        words = ["explain", "--", *words[1:]]  # -1/2 is an answer, no flag
    given = parser.parse_args(words)
    from prl import answers

    print(answers.explain(given.pred, given.gold))


def _course(words: list[str]) -> None:
    parser = _Parser(prog="prl course", description=SUMMARIES["course"])
    actions = parser.add_subparsers(dest="action", parser_class=_Parser, required=True)
    new = actions.add_parser("new", help="write the kit into a new folder")
    new.add_argument("folder", metavar="DIR", type=Path)
    new.add_argument(
        "--student",
        nargs="?",
        const="",
        metavar="NAME",
        help="without the instructor's material; with a name, in the numbers of that student",
    )
    grade = actions.add_parser(
        "grade", help="grade the submissions in a folder: one folder or file a student"
    )
    grade.add_argument("folder", metavar="DIR", type=Path)
    grade.add_argument("--student", nargs="+", default=[], metavar="NAME", help="these alone")
    grade.add_argument(
        "--personal", action="store_true", help="each in the numbers that `new --student NAME` gave"
    )
    grade.add_argument(
        "--unsafe", action="store_true", help="run submissions without isolation, as if they were yours"
    )
    given = parser.parse_args(words)
    if given.action == "grade":
        from prl.machine import environment

        environment.settle()
        from prl.course import command

        command.run(given.folder, given.student, personal=given.personal, unsafe=given.unsafe)
        return
    from prl.course import kit

    for path in kit.new(given.folder, student=given.student):
        print(path)


# --- Help


def _overview() -> str:
    width = max(map(len, SUMMARIES)) + 2
    commands = "\n".join(f"  {name:{width}}{summary}" for name, summary in SUMMARIES.items())
    return (
        "usage: prl COMMAND [FLAGS]\n\n"
        "Teach small language models to think in parallel: cold start (sft), reinforcement learning (rl), "
        "evaluation.\n\n"
        f"commands:\n{commands}\n\n"
        "`prl COMMAND --help` lists a command's flags. Start with `prl demo`, or stage by stage:\n\n"
        "  prl sft      --output_dir runs/mine/sft\n"
        "  prl rl       --output_dir runs/mine/rl   --model runs/mine/sft\n"
        "  prl eval     --output_dir runs/mine/eval --model runs/mine/rl"
    )


def _help(command: str) -> str:
    cls = arguments.COMMANDS[command]
    hints, places = get_type_hints(cls), arguments.POSITIONAL.get(command, ())
    width = min(shutil.get_terminal_size().columns, 110)
    parser = argparse.ArgumentParser(
        prog=f"prl {command}",
        usage=" ".join(["prl", command, *map(str.upper, places), "[FLAGS]"]),
        description=SUMMARIES[command] + ("\n" + DEFAULTS_NOTE if "recipe" in hints else ""),
        epilog=_trainer_note(command, width)
        if command in arguments.TRAINER_CONFIGS
        else inspect.cleandoc(cls.__doc__ or "").partition("\n\n")[2],
        formatter_class=lambda prog: argparse.RawDescriptionHelpFormatter(
            prog, max_help_position=34, width=width
        ),
    )
    own = {item.name: item.metadata.get("help") for item in dataclasses.fields(cls)}
    for name, default in sorted(dataclasses.asdict(cls()).items(), key=lambda item: item[0] not in places):
        text = own[name] or arguments.HELP[name]
        if default is not None and default is not False:
            text += f" [{' '.join(map(str, default)) if isinstance(default, list) else default}]"
        parser.add_argument(f"--{name}", metavar=_metavar(hints[name]), help=text)
    return parser.format_help()


def _metavar(hint: Any) -> str:
    if get_origin(hint) is Literal:
        return "{" + ",".join(get_args(hint)) + "}"
    kinds = {int: "N", float: "X", bool: "[BOOL]"}
    if get_origin(hint) is list:
        return f"{kinds.get(get_args(hint)[0], 'NAME')} ..."
    inner = next(iter(get_args(hint)), hint)  # of `int | None`: int
    return _metavar(inner) if inner is not hint else kinds.get(hint, "TEXT")


def _trainer_note(command: str, width: int) -> str:
    flags = textwrap.fill(
        " ".join(f"--{name}" for name in MOST_USED[command].split()),
        width,
        initial_indent="  ",
        subsequent_indent="  ",
        break_on_hyphens=False,
    )
    config = arguments.TRAINER_CONFIGS[command]
    return (
        f"Flags of trl.{config} go too, and one that would do nothing here is refused or told;\n"
        f"`prl {command} --help-trainer` lists them. The most used:\n"
        f"{flags}"
    )
