"""A pretrained image model of Hugging Face as the first task, which later tasks and the router build on:

    name = "pets"
    when_full = "reuse"  # the first task has all neurons, later ones have a head each
    moments = 4096
    moments_of = "first"
    pruning = { min_width = 3072 }  # as wide as the widest layer: nothing is pruned
    routing = { router = "moments", shrinkage = "auto" }
    router_data = "kept"

    [trunk]
    target = "pretrained:trunk"
    arguments = { name = "google/vit-base-patch16-224-in21k" }

    [input]
    shape = [3, 224, 224]
    low = 0.0
    high = 1.0
    mean = [0.5]
    std = [0.5]
    image = { size = [224, 224] }

    [[tasks]]
    name = "cats"
    classes = ["Abyssinian", "Siamese"]
    data = "pictures/cats"
    pretrained = "pretrained:frozen"
    pretrained_arguments = { name = "google/vit-base-patch16-224-in21k" }

`eidetic train` learns that, and `eidetic add-task` more classes, for ever: no example is kept, and nothing is
forgotten. Needs `pip install transformers`.
"""

from torch import Tensor, nn
from transformers import AutoConfig, AutoModel


class FirstToken(nn.Module):
    """A vision transformer as a trunk: pixels (N, 3, H, W) to the features of its class token (N, F)."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x).last_hidden_state[:, 0]


def trunk(name: str) -> nn.Module:
    """The architecture alone; `name` is a model on the Hub, or a folder that holds one."""
    return FirstToken(AutoModel.from_config(AutoConfig.from_pretrained(name), add_pooling_layer=False))


def frozen(name: str) -> nn.Module:
    """The same with its weights, which are not trained any further."""
    return FirstToken(AutoModel.from_pretrained(name, add_pooling_layer=False)).requires_grad_(False).eval()
