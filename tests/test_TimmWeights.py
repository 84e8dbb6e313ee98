"""timm's weight files in our networks: the same answers on photographs, both ways, or a refusal."""

from functools import cache
from pathlib import Path
from types import ModuleType

import pytest
import torch
from test_ForeignWeights import assert_same_logits, randomize
from torch import Tensor, nn

from MLPipeline.decoding.ReadImage import read_image
from MLPipeline.EfficientNet_Model import OTHER_EPS_IN_TIMM
from MLPipeline.Errors import DataError
from MLPipeline.Models import build_model, find_model
from MLPipeline.Weights import LOOK_ALIKES, load_weights
from tests.support.paths import ROOT
from tests.support.quick_init import no_init, quick_init

PHOTOGRAPHS = ROOT.parent / "shared" / "data" / "clothing" / "test"
QUICK = ("resnet18", "resnet50", "efficientnet_b0")
SLOW = (
    *("resnet34", "resnet101", "resnet152", "resnext50_32x4d", "wide_resnet50_2"),
    *(f"efficientnet_b{number}" for number in range(1, 5)),
)
SAME_IN_TIMM = [*QUICK, *(pytest.param(name, marks=pytest.mark.slow) for name in SLOW)]
# The others are deeper or wider; test_ForeignWeights compares the names and shapes of all.
WITH_NUMBERS = [
    *QUICK,
    *(pytest.param(name, marks=pytest.mark.slow) for name in ("resnext50_32x4d", "efficientnet_b2")),
]
PLAYING_CARDS = "efficientnet_b0_ra-3dd342df.pth"


@pytest.fixture(scope="module")
def timm() -> ModuleType:
    return pytest.importorskip("timm", reason="timm is the reference here: pip install -r requirements-dev.txt")


def side(name: str) -> int:
    """The slow ones, whose layers are those of the quick ones, are compared on smaller images."""
    return 128 if name in QUICK else 64


def specimens(size: int) -> Tensor:
    files = sorted((ROOT / "Data").glob("*/00[12].jpg"))
    assert len(files) >= 4
    return torch.stack([torch.from_numpy(read_image(file, (size, size)).pixels) for file in files]).permute(0, 3, 1, 2)


def photographs(size: int) -> Tensor:
    if not PHOTOGRAPHS.is_dir():
        pytest.skip(f"no photographs in {PHOTOGRAPHS}")
    files = [sorted(folder.glob("*.jpg"))[0] for folder in sorted(PHOTOGRAPHS.iterdir()) if folder.is_dir()]
    return torch.stack([torch.from_numpy(read_image(file, (size, size)).pixels) for file in files]).permute(0, 3, 1, 2)


@pytest.mark.parametrize("name", WITH_NUMBERS)
@torch.no_grad()
def test_timms_weights_give_timms_logits(timm: ModuleType, tmp_path: Path, name: str) -> None:
    images = specimens(side(name))
    with no_init():
        ours = build_model(name, 5, side(name)).eval()
    with quick_init():
        theirs = timm.create_model(name, num_classes=5)
    randomize(theirs, ours.normalize(images))
    torch.save(theirs.state_dict(), tmp_path / "weights.pth")
    report = load_weights(ours, find_model(name), str(tmp_path / "weights.pth"))
    assert report.note == "weights of weights.pth, head included"
    assert_same_logits(ours, theirs, images, ours.normalize(images))


@pytest.mark.parametrize("name", QUICK)
@torch.no_grad()
def test_our_weights_give_our_logits_in_timm(timm: ModuleType, name: str) -> None:
    """One of each kind of block; test_ForeignWeights checks for every network that the names match one to one."""
    images, rename = specimens(side(name)), find_model(name).rename
    with no_init():
        theirs = timm.create_model(name, num_classes=5).eval()
    with quick_init():
        ours = build_model(name, 5, side(name))
    randomize(ours, images)
    state = ours.state_dict()
    theirs.load_state_dict({key: state[rename(key)] for key in theirs.state_dict()})
    assert len(theirs.state_dict()) == len(state) - len(("mean", "std"))
    assert_same_logits(ours, theirs, images, ours.normalize(images))


@torch.no_grad()
def test_the_file_of_the_playing_cards_recipe_on_photographs(timm: ModuleType, tmp_path: Path) -> None:
    ours, images = build_model("efficientnet_b0", 1000, 128).eval(), photographs(128)
    theirs = randomize(timm.create_model("efficientnet_b0"), ours.normalize(images))
    torch.save(theirs.state_dict(), tmp_path / PLAYING_CARDS)
    load_weights(ours, find_model("efficientnet_b0"), str(tmp_path / PLAYING_CARDS))
    assert_same_logits(ours, theirs, images, ours.normalize(images))

    for_cards = build_model("efficientnet_b0", 53, 128).eval()
    report = load_weights(for_cards, find_model("efficientnet_b0"), str(tmp_path / PLAYING_CARDS))
    assert report.note == f"weights of {PLAYING_CARDS}, head of another size (1000 classes) left out"
    assert torch.equal(for_cards.features(images), ours.features(images))


@pytest.mark.parametrize("name", SAME_IN_TIMM)
def test_normalisation_layers_have_the_same_constants(timm: ModuleType, name: str) -> None:
    """A wrong eps fits every shape and shows in no name."""

    def constants(network: nn.Module) -> set[tuple[float, float | None]]:
        return {(layer.eps, layer.momentum) for layer in network.modules() if isinstance(layer, nn.BatchNorm2d)}

    with torch.device("meta"):
        assert constants(timm.create_model(name)) == constants(build_model(name, 5, 128))


@pytest.mark.parametrize("name", OTHER_EPS_IN_TIMM)
def test_networks_with_another_eps_refuse_timms_names(timm: ModuleType, name: str) -> None:
    with torch.device("meta"):
        theirs, ours = timm.create_model(name), build_model(name, 5, 128)
    eps = [{m.eps for m in net.modules() if isinstance(m, nn.BatchNorm2d)} for net in (theirs, ours)]
    assert eps == [{1e-5}, {1e-3}]
    renamed = {find_model(name).rename(key) for key in theirs.state_dict()}
    assert "conv_stem.weight" in renamed and not renamed & set(ours.state_dict())


@pytest.mark.parametrize(
    "file",
    [
        "tf_efficientnet_b0_ns-c0e6a31c.pth",
        "models--timm--tf_efficientnet_b4.ns_jft_in1k/model.safetensors",
        "efficientnet_blur_b0.pth",
        "resnetblur50-84f4748f.pth",
        "resnetaa50_a1h-4cf422b3.pth",
    ],
)
def test_weights_that_only_look_like_ours_are_refused(tmp_path: Path, file: str) -> None:
    (tmp_path / file).parent.mkdir(exist_ok=True)
    (tmp_path / file).touch()
    with pytest.raises(
        DataError, match="a network with the same tensors that computes something else. Use the plain network's"
    ):
        load_weights(build_model("efficientnet_b0", 5, 64), find_model("efficientnet_b0"), str(tmp_path / file))


@pytest.mark.parametrize("file", [PLAYING_CARDS, "resnet50_a1_0-14fe96d1.pth", "my-tf/resnext50.pt", "aa_resnet18.pt"])
def test_plain_names_are_not_taken_for_look_alikes(file: str) -> None:
    assert not LOOK_ALIKES.search(file)


@pytest.mark.slow
def test_all_look_alikes_in_timm_are_known(timm: ModuleType) -> None:
    """Every network of timm whose tensors fit one of ours is that network, or is refused by its name."""

    def has_the_ends_of(name: str, ours: str) -> bool:
        """Whether the first and the last layer have the names of ours; building all networks takes long."""
        ends = [(cfg.first_conv, cfg.classifier) for cfg in map(timm.get_pretrained_cfg, (name, ours))]
        return ends[0] == ends[1]

    @cache
    def shapes(name: str) -> dict[str, tuple[int, ...]]:
        return {key: tuple(tensor.shape) for key, tensor in timm.create_model(name).state_dict().items()}

    def signature(theirs: str, ours: str) -> frozenset:
        return frozenset((find_model(ours).rename(key), shape) for key, shape in shapes(theirs).items())

    num_compared = 0
    with torch.device("meta"), no_init():
        for ours in (*QUICK, *SLOW[:5], "efficientnet_b1", "efficientnet_b4"):
            expected = frozenset(
                (key, tuple(tensor.shape))
                for key, tensor in build_model(ours, 1000, 64).state_dict().items()
                if key not in ("mean", "std")
            )
            depth = ours.removeprefix("resnet").removeprefix("efficientnet_")
            for name in timm.list_models(f"*{depth}*"):
                if ("net" in name or "next" in name) and has_the_ends_of(name, ours):
                    num_compared += 1
                    if signature(name, ours) == expected:
                        assert name == ours or LOOK_ALIKES.search(name), f"{name} fits {ours}"
    assert num_compared > 40
