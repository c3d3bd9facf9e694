"""prl data import: the formats of Multiverse, NPR and ThreadWeaver as their repositories document them."""

from __future__ import annotations

import csv
import html
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prl import cli
from prl.data import targets
from prl.data.hub import load_rows
from prl.grammar import parse
from prl.traces.foreign import FORMATS, from_multiverse, from_npr, from_threadweaver

MULTIVERSE = """<Think>
Two rows of seats, 12 and 15 long.
<Parallel>
<Goal>
Each row can be counted alone.
<Outline>1: Count the front row.</Outline>
<Outline>2: Count the
  back row.</Outline>
</Goal>
<Path>
1: 12 seats, and 12 &lt; 15.
</Path>
<Path>
2: 15 seats.
</Path>
<Conclusion>
12 and 15.
</Conclusion>
</Parallel>
So 27.
</Think>
The answer is \\boxed{27}."""

NPR = """<guideline>
<plan>1: Count up.</plan>
<plan>2: Count down.</plan>
</guideline>
<step>
1: 1, 2, 3.
</step>
<step>
2: 3, 2, 1.
</step>
<takeaway>
Three either way.
</takeaway>

<guideline>
<plan>1: Double it.</plan>
</guideline>
<step>
1: 3+3=6
</step>
<takeaway>
Six.
</takeaway>

The answer is \\boxed{6}."""

THREADWEAVER = """<think>
Split the sum.
<Parallel>
<Outlines>
<Outline>1: tens</Outline>
<Outline>2: ones</Outline>
</Outlines>
<Thread>
1: 40+20=60
</Thread><Thread>
2: 7+6=13
</Thread>
<Conclusion>
60+13=73
</Conclusion>
</Parallel>
</think>

\\boxed{73}"""


def test_multiverse_s_outline_is_a_plan_and_its_conclusion_the_summary() -> None:
    assert from_multiverse(MULTIVERSE) == (
        "Two rows of seats, 12 and 15 long.\n\nEach row can be counted alone.\n\n"
        "Count the front row.\nCount the back row.\n"
        "<Parallel><Path>\n12 seats, and 12 < 15.\n</Path><Path>\n15 seats.\n</Path></Parallel>\n"
        "<Summary>\n12 and 15.\n</Summary>\n\nSo 27.\n\nThe answer is \\boxed{27}."
    )


def test_npr_s_rounds_are_blocks_and_one_of_a_single_step_is_text() -> None:
    assert from_npr(NPR) == (
        "Count up.\nCount down.\n"
        "<Parallel><Path>\n1, 2, 3.\n</Path><Path>\n3, 2, 1.\n</Path></Parallel>\n"
        "<Summary>\nThree either way.\n</Summary>\n\n"
        "Double it.\n\n3+3=6\n\nSix.\n\nThe answer is \\boxed{6}."
    )


def test_threadweaver_s_threads_are_paths() -> None:
    assert from_threadweaver(THREADWEAVER) == (
        "Split the sum.\n\ntens\nones\n"
        "<Parallel><Path>\n40+20=60\n</Path><Path>\n7+6=13\n</Path></Parallel>\n"
        "<Summary>\n60+13=73\n</Summary>\n\n\\boxed{73}"
    )


@pytest.mark.parametrize("text", ["It is 7.", "", "2 < 3 and <b>bold</b>"])
@pytest.mark.parametrize("form", FORMATS)
def test_text_without_blocks_stays(form: str, text: str) -> None:
    assert FORMATS[form](text) == text


INNER = "<Parallel><Goal></Goal><Path>a</Path><Path>b</Path><Conclusion>c</Conclusion></Parallel>"


@pytest.mark.parametrize(
    ("form", "text", "said"),
    [
        (
            "multiverse",
            MULTIVERSE.replace("15 seats.\n</Path>", f"{INNER}</Path>"),
            "<Path> at 231 holds <Parallel> at 241: blocks inside blocks have no form in prl",
        ),
        (
            "npr",
            NPR.replace("1, 2, 3.", NPR.partition("<guideline>\n<plan>1: Double")[0]),
            "<step> at 79 holds <guideline> at 89: blocks inside blocks have no form in prl",
        ),
        (
            "threadweaver",
            THREADWEAVER.replace("<Conclusion>\n60+13=73\n</Conclusion>\n", ""),
            "<Parallel> at 23 has no <Conclusion>, which would be the summary",
        ),
        ("npr", NPR.replace("<takeaway>\nSix.\n</takeaway>", "Six."), "has no <takeaway>"),
        ("npr", NPR.replace("</step>\n<step>", "</step>\nand\n<step>"), "has no <takeaway>"),
        ("npr", "<step>1: a</step>", "<step> at 0 stands outside a block"),
        ("npr", NPR.replace("<plan>2: Count down.</plan>", ""), "plans 1 and has 2 of <step>"),
        ("npr", NPR.replace("</takeaway>", "</step>", 1), "</step> at 162 closes no <step>"),
        ("npr", NPR + "<plan>", "<plan> at 304 is not closed"),
        ("npr", "</plan>", "</plan> at 0 closes no <plan>"),
        (
            "npr",
            "<guideline><step>1: a</step></guideline><step>1: a</step><takeaway>b</takeaway>",
            "holds <step> at 11, which is no <plan>",
        ),
        ("npr", NPR.replace("1, 2, 3.", ""), "cannot render a block: path 1 is blank"),
        ("npr", NPR.replace("1, 2, 3.", "a <Path>"), "path 1 holds the tag <Path>"),
        ("multiverse", INNER.replace("</Path><Path>", "</Path>and<Path>"), "text between its parts: 'and'"),
        ("multiverse", INNER.replace("<Goal></Goal>", ""), "holds Path, Path, Conclusion, not Goal, then"),
        ("multiverse", "<Path>a</Path>", "<Path> at 0 stands outside a block"),
    ],
)
def test_what_has_no_form_here_is_told(form: str, text: str, said: str) -> None:
    with pytest.raises(ValueError, match=r".") as error:
        FORMATS[form](text)
    assert said in str(error.value)


words = st.text("ab1: <&\n", min_size=1, max_size=8).filter(lambda text: text.strip())


@given(st.lists(words, min_size=2, max_size=4), words, words)
def test_paths_and_summaries_are_those_that_were_written(paths: list[str], summary: str, before: str) -> None:
    steps = "".join(f"<step>\n{i}: {path}\n</step>" for i, path in enumerate(paths, 1))
    plans = "".join(f"<plan>{i}: way {i}</plan>" for i, _ in enumerate(paths, 1))
    text = f"{before}<guideline>{plans}</guideline>{steps}<takeaway>{summary}</takeaway>"
    trace = parse(from_npr(text))
    assert trace.is_valid
    (block,) = trace.blocks
    assert [path.text.strip() for path in block.paths] == [path.strip() for path in paths]
    assert block.summary
    assert block.summary.text.strip() == summary.strip()
    plan = "\n".join(f"way {i}" for i, _ in enumerate(paths, 1))
    assert trace.main_thread.strip() == f"{before.strip()}\n\n{plan}"


@given(st.text("<>/ 1:a\n") | st.lists(st.sampled_from(["<guideline>", "</guideline>", "<plan>", "</plan>",
    "<step>", "</step>", "<takeaway>", "</takeaway>", "1: a", " "])).map("".join))  # fmt: skip
def test_any_text_is_a_trace_or_refused(text: str) -> None:
    try:
        found = from_npr(text)
    except ValueError:
        return
    assert not any(tag in found for tag in ("<plan>", "<step>", "<takeaway>", "<guideline>"))
    assert parse(found).is_valid


def write(path: Path, rows: list[dict[str, Any]]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def test_a_file_is_imported_and_trained_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    turns = [{"role": "user", "content": "How many seats?"}, {"role": "assistant", "content": MULTIVERSE}]
    rows = [
        {"question": "How many seats?", "answer": "27", "response": MULTIVERSE},
        {"question": "Nested?", "answer": "1", "response": MULTIVERSE.replace("15 seats.", INNER)},
    ]
    file, output = write(tmp_path / "mv.jsonl", rows), tmp_path / "traces.parquet"
    given_words = ["data", "import", file, "--format", "multiverse", "--output", str(output)]
    assert cli.main(given_words) == 1
    err = capsys.readouterr().err
    assert f"{file}: bad rows: 1 of 2\n  line 2: <Path> at " in err
    assert not output.exists()

    assert cli.main([*given_words, "--on_bad_rows", "skip"]) == 0
    assert f"{output}: 1 of 2 traces, 1 blocks of 2 paths\n" in capsys.readouterr().out
    (row,) = load_rows(str(output), need=("problem", "answer", "trace"))
    assert (row["problem"], row["answer"]) == ("How many seats?", "27")
    assert row["trace"] == from_multiverse(MULTIVERSE)
    assert row["context_paths"] == [], "the work is divided: 12 and 15 are no wrong results"
    assert cli.main(["data", "check", str(output)]) == 0

    chats = write(tmp_path / "chats.jsonl", [{"messages": turns}])
    given_words = ["data", "import", chats, "--format", "multiverse", "--output", str(tmp_path / "b.jsonl")]
    assert cli.main(given_words) == 0
    (again,) = load_rows(str(tmp_path / "b.jsonl"), need=("problem", "trace"))
    assert (again["problem"], again["trace"]) == (row["problem"], row["trace"])
    assert "context_paths" not in again, "no answer, and nobody looked"


def voting(*paths: str, summary: str) -> str:
    steps = "".join(f"<step>{number}: {path}</step>" for number, path in enumerate(paths, 1))
    return f"<guideline></guideline>{steps}<takeaway>{summary}</takeaway>"


SLIP = voting("2+3=6", "2+3=5", summary="So 5.")
ALONE = voting("3+2=6", summary="6")  # becomes text, so that places behind it move


def imported(folder: Path, *rows: dict[str, Any], suffix: str = "jsonl") -> list[dict[str, Any]]:
    file, output = folder / f"set.{suffix}", folder / "traces.parquet"
    if suffix == "csv":
        with file.open("w", newline="") as table:
            writer = csv.DictWriter(table, [*rows[0]])
            writer.writeheader()
            writer.writerows({key: str(cell) for key, cell in row.items()} for row in rows)
    else:
        write(file, [*rows])
    assert cli.main(["data", "import", str(file), "--format", "npr", "--output", str(output)]) == 0
    return load_rows(str(output), need=("problem", "trace"))


def test_wrong_paths_are_recorded_where_there_is_an_answer(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As `targets.apply(…, "judged")` finds them in training, so that both rules learn the same."""
    bare = {"problem": "2 + 3?", "response": f"{ALONE}{SLIP}"}
    divided = {"problem": "2 + 3?", "answer": "5", "response": voting("a=2", "b=3", summary="2+3=5")}
    wrong = {"problem": "2 + 3?", "answer": "7", "response": SLIP}
    rows = imported(tmp_path, bare | {"answer": "5"}, divided, wrong, bare)
    assert [row.get("context_paths") for row in rows] == [[0], [], [], None]
    assert "  wrong paths, recorded: 1 in 1 of 3 traces\n" in capsys.readouterr().out
    for row in rows[:3]:
        unknown = {key: cell for key, cell in row.items() if key != "context_paths"}
        assert targets.apply(unknown, "judged") == row


@pytest.mark.parametrize("suffix", ["jsonl", "csv"])
def test_what_a_file_records_of_its_paths_is_kept(tmp_path: Path, suffix: str) -> None:
    """By their places in what is imported, also where a verifier would say otherwise."""
    row = {"problem": "2 + 3?", "answer": "5", "response": f"{SLIP}{ALONE}{SLIP}"}
    rows = imported(tmp_path, *(row | {"context_paths": each} for each in ([4, 0], [])), suffix=suffix)
    assert [each["context_paths"] for each in rows] == [[3, 0], []]


def in_format(trace: str, form: str) -> str:
    """A trace of prl as another project would write it."""
    before, plan, path, after, end = {
        "multiverse": ("<Parallel><Goal>", "Outline", "Path", "</Goal>", "Conclusion"),
        "npr": ("<guideline>", "plan", "step", "</guideline>", "takeaway"),
        "threadweaver": ("<Parallel><Outlines>", "Outline", "Thread", "</Outlines>", "Conclusion"),
    }[form]
    said = html.escape if form == "multiverse" else str
    pieces, cursor = [], 0
    for block in parse(trace).blocks:
        assert block.summary
        plans = "".join(f"<{plan}>{number}: way</{plan}>" for number, _ in enumerate(block.paths, 1))
        paths = "".join(f"<{path}>{n}: {said(each.text)}</{path}>" for n, each in enumerate(block.paths, 1))
        close = "" if form == "npr" else "</Parallel>"
        pieces += [said(trace[cursor : block.span.start]), before, plans, after, paths]
        pieces.append(f"<{end}>{said(block.summary.text)}</{end}>{close}")
        cursor = block.summary.end
    return "".join([*pieces, said(trace[cursor:])])


@pytest.mark.real
@pytest.mark.parametrize("form", FORMATS)
def test_wrong_paths_of_real_traces_are_those_that_training_finds(
    real_data: Path, tmp_path: Path, form: str
) -> None:
    file = str(real_data / "parallel_gsm8k_341.parquet")
    loaded = load_rows(file, need=("problem", "answer", "trace"))
    rows = [row for row in loaded if parse(row["trace"]).is_valid]
    written = [row | {"trace": in_format(row["trace"], form)} for row in rows]
    theirs, output = write(tmp_path / "theirs.jsonl", written), tmp_path / "traces.parquet"
    assert cli.main(["data", "import", theirs, "--format", form, "--output", str(output)]) == 0
    found = [row["context_paths"] for row in load_rows(str(output), need=("problem", "trace"))]
    assert found == [targets.wrong_paths(row["trace"], row["answer"]) for row in rows]
    assert (len(found), sum(map(len, found))) == (338, 30)


@pytest.mark.parametrize("answer", [None, "", " ", "nan", float("nan"), [], {"ground_truth": None}])
def test_a_row_without_an_answer_is_imported(tmp_path: Path, answer: object) -> None:
    rows: list[dict[str, Any]] = [{"problem": "a", "response": NPR, "answer": answer}]
    rows.append({"problem": "b", "solution": "So it is.\n\nDone."})  # the trace itself
    rows.append({"problem": "c", "response": NPR, "text": "What was scraped."})
    for number, row in enumerate(rows):
        file, output = write(tmp_path / f"{number}.jsonl", [row]), tmp_path / f"{number}.parquet"
        assert cli.main(["data", "import", file, "--format", "npr", "--output", str(output)]) == 0
        (read,) = load_rows(str(output), need=("problem", "trace"))
        assert "answer" not in read


@pytest.mark.parametrize(
    ("rows", "words_", "status", "said"),
    [
        ([{"problem": "a", "response": "b"}], [], 2, "--format is missing"),
        ([{"problem": "a", "response": "b"}], ["--format", "nrp"], 2, "nearest: npr"),
        ([{"problem": "a"}], ["--format", "npr"], 1, "has no column for the trace"),
        (
            [{"problem": "a", "response": 7}],
            ["--format", "npr"],
            1,
            "line 1: response is of type int, not text",
        ),
        (
            [{"problem": "a", "response": "b \ud83d"}],
            ["--format", "npr"],
            1,
            "response holds half a surrogate",
        ),
        (
            [{"problem": "a", "response": "b", "answer": ["12", "13"]}],
            ["--format", "npr"],
            1,
            "line 1: answer is of type list, not text: it has 2 values",
        ),
        (
            [{"problem": "a", "response": "b", "solution": "See above.\n\nDone."}],
            ["--format", "npr"],
            1,
            "line 1: solution commits to no answer",
        ),
        (
            [{"problem": "a", "response": "b", "answer": "\\frac{\\sqrt{3"}],
            ["--format", "npr"],
            1,
            "line 1: the answer is cut off",
        ),
        ([{"problem": "", "response": "b"}], ["--format", "npr"], 1, "line 1: problem is empty"),
        (
            [{"problem": "a", "response": SLIP, "context_paths": [2]}],
            ["--format", "npr"],
            1,
            "line 1: context_paths names path 2, and the trace has 2: count from 0 to 1",
        ),
        (
            [{"problem": "a", "response": SLIP, "context_paths": "the first"}],
            ["--format", "npr"],
            1,
            "line 1: context_paths is 'the first', not a list of whole numbers",
        ),
        (
            [{"problem": "a", "response": f"{SLIP}{ALONE}", "context_paths": [0, 2]}],
            ["--format", "npr"],
            1,
            "line 1: context_paths names path 2, which is alone in its block and becomes text",
        ),
        (
            [{"problem": "a", "response": "b"}],
            ["--format", "npr", "--output", "x.csv"],
            2,
            ".parquet or .jsonl",
        ),
    ],
)
def test_what_cannot_be_imported(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    rows: list[dict[str, Any]],
    words_: list[str],
    status: int,
    said: str,
) -> None:
    file = write(tmp_path / "set.jsonl", rows)
    output = [] if "--output" in words_ else ["--output", str(tmp_path / "x.parquet")]
    assert cli.main(["data", "import", file, *words_, *output]) == status
    assert said in capsys.readouterr().err
