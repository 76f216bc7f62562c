"""A small model in a Hugging Face Trainer without noise, and a callback that halves states."""

import torch
import transformers
from torch import nn

import compressm
from compressm.integrations.transformers import CompressionCallback
from compressm.nn import LRU, SequenceClassifier, state_dims

FULL = 16


class Wrapped(nn.Module):
    """One of our models with the signature and the outputs that a Trainer wants."""

    def __init__(self, layer="lru"):
        super().__init__()
        self.net = SequenceClassifier(
            input="real", features=1, width=4, state_dim=FULL, depth=1, classes=3, layer=layer
        )

    def forward(self, inputs, labels=None):
        logits = self.net(inputs)
        out = {"logits": logits}
        if labels is not None:
            out["loss"] = nn.functional.cross_entropy(logits, labels)
        return out


class Rigid(LRU):
    """A layer that cannot resize itself when smaller states are loaded."""

    _load_from_state_dict = nn.Module._load_from_state_dict


def build(layer="lru"):
    torch.manual_seed(3)
    return Wrapped(layer)


def examples(count, seed=0):
    g = torch.Generator().manual_seed(seed)
    return [
        {"inputs": torch.randn(10, 1, generator=g), "labels": torch.randint(3, (), generator=g)}
        for _ in range(count)
    ]


def trainer(
    folder,
    callback,
    *,
    steps=12,
    model=None,
    model_init=None,
    optimizers=(None, None),
    more=(),
    **options,
):
    args = transformers.TrainingArguments(
        **{
            "output_dir": str(folder),
            "max_steps": steps,
            "per_device_train_batch_size": 4,
            "learning_rate": 1e-2,
            "report_to": "none",
            "use_cpu": True,
            "disable_tqdm": True,
            "logging_strategy": "no",
            "save_strategy": "no",
            "seed": 7,
            **options,
        }
    )
    return transformers.Trainer(
        model=model if model or model_init else build(),
        model_init=model_init,
        args=args,
        train_dataset=examples(40),
        eval_dataset=examples(8, seed=1),
        callbacks=[callback, *more],
        optimizers=optimizers,
    )


def cutting(*steps, **options):
    return CompressionCallback(
        **{
            "policy": compressm.FixedFraction(0.5),
            "schedule": compressm.Schedule.at(*steps),
            **options,
        }
    )


def dims(model):
    return list(state_dims(model).values())


def same(a, b):
    torch.testing.assert_close(a.state_dict(), b.state_dict(), rtol=0, atol=0)
