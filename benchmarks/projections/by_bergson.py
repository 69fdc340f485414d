"""bergson's own process: projects the gradients of a model's rows, and leaves them in a file.

transformers takes torchvision where it is there, which must then be of the same build as torch.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from bergson.collection import collect_gradients
from bergson.config.config import IndexConfig
from bergson.data import allocate_batches, load_gradients
from bergson.gradients import GradientProcessor
from datasets import Dataset
from transformers import AutoModelForCausalLM


def main() -> None:
    """Of the model and the rows in a folder: prints the processor seconds of each run."""
    folder, side, runs = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    torch.set_num_threads(1)
    model = AutoModelForCausalLM.from_pretrained(folder / "model").eval()
    model.requires_grad_(False)
    model.get_input_embeddings().requires_grad_(True)  # as bergson's own `build` does
    tokens = np.load(folder / "tokens.npy")
    rows = Dataset.from_dict(
        {
            "input_ids": tokens.tolist(),
            "labels": tokens.tolist(),
            "length": [len(tokens[0])] * len(tokens),
        }
    )
    seconds = []
    for run in range(runs):
        with tempfile.TemporaryDirectory() as out:
            config = IndexConfig(
                run_path=f"{out}/index",
                projection_dim=side,
                projection_seed=run,
                loss_reduction="mean",
            )
            batches = allocate_batches(rows["length"], config.token_batch_size)
            processor = GradientProcessor(projection_dim=side, projection_seed=run)
            began = time.process_time()
            collect_gradients(model, rows, processor, config, batches=batches)
            seconds.append(time.process_time() - began)
            np.save(folder / "bergson.npy", np.array(load_gradients(config.partial_run_path)))
    print(json.dumps(seconds))


if __name__ == "__main__":
    main()
