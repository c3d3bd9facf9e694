"""TRL's own GRPOTrainer with parts of prl: rewards that alternate by the step, easy problems first, and paths
that do not see each other. `pip install prl`, paste, run: a few steps of the tiny model that ships.

The base has never seen a tag, so nothing forks yet. After a cold start, `prl sft --recipe tiny --attention
structured --output_dir runs/sft`, MODEL = "runs/sft" writes its paths side by side, and blocks are paid.
"""

from datasets import Dataset
from trl import GRPOConfig, GRPOTrainer

from prl.data.procedural import procedural_rows
from prl.decoding import Limits
from prl.model import load_model
from prl.prompts import render_prompt
from prl.rewards import AlternatingReward, format_reward
from prl.structure import Tags, attach_structure, attached_structure
from prl.trainer.rollouts import Rollouts

MODEL = "tiny"
STEPS, PROBLEMS, GROUP = 3, 4, 4  # in a step PROBLEMS problems, GROUP responses to each

model, tokenizer = load_model(MODEL, trainable=True)
if attached_structure(model) is None:  # a cold start brings it along
    attach_structure(model, Tags.of(tokenizer))  # mask and positions by the tags, wherever it is called

# The simplest curriculum is the order of the data; prl.trainer.staging has one that watches what is solved.
rows = procedural_rows("arithmetic:wide", "", ("problem", "answer"), STEPS * PROBLEMS, seed=0)
rows.sort(key=lambda row: row["level"])
table = [{"prompt": render_prompt(row["problem"], "bare"), "answer": row["answer"]} for row in rows]

# TRL samples with model.generate, which knows no paths. Rollouts fork at <Parallel> and join at </Parallel>,
# and keep what the runtime inserts out of the loss.
rollouts = Rollouts(Limits(max_new_tokens=96))
trainer = GRPOTrainer(
    model=model,
    # Parallel-R1: of ten steps eight pay right answers, and two pay more for those with a valid block.
    reward_funcs=[AlternatingReward((("accuracy", 8), ("tiered", 2))), format_reward],
    args=GRPOConfig(
        "runs/plain_trl",
        max_steps=STEPS,
        num_generations=GROUP,
        per_device_train_batch_size=PROBLEMS * GROUP,
        max_completion_length=96,
        reward_weights=[1.0, 0.1],
        shuffle_dataset=False,
        logging_steps=1,
        report_to=[],
        use_cpu=True,
        bf16=False,  # TRL's default is True, which computes otherwise than the rollouts in float32
    ),
    train_dataset=Dataset.from_list(table),
    processing_class=tokenizer,
    rollout_func=rollouts,
    callbacks=[rollouts],
)
rollouts.watch(trainer)  # sampling_gap/max in the logs: between sampled and scored log-probabilities
trainer.train()
