"""The trainers of controls and image prompts, end to end, on tiny networks: locked bases, dropped prompts, figures."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from engine.diffusion import control_lora, control_maps, ip_adapter, lora
from engine.models.cards import part_digest, read_card, verify
from engine.models.loading import load_unet
from engine.models.packed import pack, unpack
from engine.space import Cameras
from engine.toybox.generate import join, scene_of, views_of
from engine.toybox.render import render
from engine.training import control_data, control_figures
from engine.training.control import DROPOUT, Control
from engine.training.data import Shards, fake_shards, over
from engine.training.image_prompt import KIND_ALONE, NEITHER, NO_TEXT, ImagePrompt, colourless
from engine.training.latents import update
from engine.training.loop import Draw, Settings, State, load_average, train
from tests.tiny_models import make_tiny_set

CPU = torch.device("cpu")
SIZE = 64
RANK, CHANNELS = 4, (4, 8, 8, 8)


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def house(tmp_path_factory) -> Path:
    """Tiny weights, fake shards with latents, edge maps, and two posed figures: all that the trainers stand on."""
    folder = tmp_path_factory.mktemp("controls")
    make_tiny_set(folder / "weights")
    fake_shards(folder / "toybox" / "train", objects=10, views=2, size=SIZE, seed=1)
    fake_shards(folder / "toybox" / "held_out", objects=4, views=2, size=SIZE, seed=2)
    for split in splits(folder):
        update(split, folder / "work" / "latents", groups=("conditions",), root=folder / "weights")
        assert control_data.write_maps(split, folder / "maps", ("edges",)) == 2 * len(split)
        assert control_data.write_maps(split, folder / "maps", ("edges",)) == 0
    for split, count in (("characters", 2), ("characters_held_out", 1)):
        assert control_data.write_figures(folder / "maps", split, 1, SIZE, count) == count
        update(Shards(folder / "maps" / split), folder / "work" / "latents", groups=("conditions",),
               root=folder / "weights")
    return folder


def splits(house: Path) -> tuple[Shards, Shards]:
    return Shards(house / "toybox" / "train"), Shards(house / "toybox" / "held_out")


def caption(spec, camera, rng, view_words) -> str:
    return f"a {spec['color']} {spec['kind']}"


class Unseen(Control):
    """Trained without being looked at: figures and sheet take longer than all else here."""

    def evaluate(self, model):
        return {}

    def sheet(self, model):
        return None


def control(house: Path, kind: str = "edges", seed: int = 0, cls: type[Control] = Unseen) -> Control:
    base = load_unet(house / "weights" / "text_to_image" / "unet", "cpu")
    return cls(kind, *splits(house), 4, house / "work", house / "maps", root=house / "weights", caption=caption,
                   model=control_lora.fresh(base, RANK, seed, CHANNELS))


def prompt(house: Path) -> ImagePrompt:
    return ImagePrompt(*splits(house), 4, house / "work", root=house / "weights", caption=caption)


def draw(step: int) -> Draw:
    return Draw(step, 0.0, np.random.default_rng(step), torch.Generator().manual_seed(step), CPU)


def settings(folder: Path, steps: int, **more) -> Settings:
    return Settings(folder, steps=steps, quiet=True, log_s=0.0, **{"warmup": 2, "ema": 0.5, "lr": 1e-2, **more})


def watched(task, monkeypatch) -> list[str]:
    """The texts that a task encodes from now on."""
    texts: list[str] = []
    encode = task.context
    monkeypatch.setattr(task, "context", lambda t, device: texts.extend(t) or encode(t, device))
    return texts


def loss(task, net, steps=range(3)) -> float:
    with torch.no_grad():
        return float(np.mean([float(task._loss(net, task.train, draw(s), 8)) for s in steps]))


# -- data ------------------------------------------------------------------------------------------------------------

def test_true_maps_are_the_renders_own() -> None:
    scene = scene_of("train", 3)
    cameras = join(views_of(scene, "train", 3, SIZE)[0][:2])
    names: list[str] = ["elsewhere"]
    maps = control_data.true_maps(scene, cameras, SIZE, names)
    drawn = render([scene], [cameras], SIZE, supersample=1)
    assert names == ["elsewhere", *scene.part_names]
    parts = maps["parts"].astype(int)
    np.testing.assert_array_equal(parts == control_data.NONE, drawn.part < 0)
    np.testing.assert_array_equal(parts[drawn.part >= 0] - 1, drawn.part[drawn.part >= 0])
    assert maps["depth"][drawn.depth == 0].max() == 0 and maps["depth"].max() == 255
    seen, depth = drawn.depth[0] > 0, drawn.depth[0]
    order = np.argsort(depth[seen])
    assert (np.diff(maps["depth"][0][seen][order].astype(int)) <= 0).all()
    shown = control_data.as_picture(maps["parts"][0], "parts", names)
    np.testing.assert_array_equal(shown, control_maps.part_map(drawn.part[0], scene.part_names))


def test_figures_come_with_joints_that_lie_on_them(house: Path) -> None:
    shards = Shards(house / "maps" / "characters")
    joints = np.load(house / "maps" / "characters" / "shard_00000" / "joints.npy")
    pictures = over(shards.rgba([0, 1], [0, 0]))
    assert control_figures.joints_shown(pictures, joints[:, 0], 1) > 0.95
    assert control_figures.joints_shown(np.ones_like(pictures), joints[:, 0]) == 0
    away = joints[:, 0] + np.array([0, 3 * SIZE, 0], np.float32)
    assert control_figures.joints_shown(pictures, away) == 0  # outside: nothing to be seen, nothing counted
    pose = np.load(house / "maps" / "characters" / "shard_00000" / "pose.npy")
    x, y = joints[0, 0, 1, :2].astype(int)  # the neck's disc
    assert pose[0, 0, y, x].max() > 200 and pose[0, 0, 0, 0].max() == 0


def test_faces_are_seen_from_the_front_alone() -> None:
    scene = scene_of("characters", 0)
    front, back = (Cameras.orbit(a, 5.0, 4.0, 35.0, SIZE) for a in (0.0, 180.0))
    from engine.toybox.skeleton import KEYPOINT_NAMES, project
    face = [KEYPOINT_NAMES.index(n) for n in ("nose", "r_eye", "l_eye")]
    for cameras, wanted in ((front, True), (back, False)):
        seen = control_data.visible_joints(scene.joints, project(scene.joints, cameras)[0])
        assert (seen[face] == wanted).all() and seen[1:14].all()


def test_figures_of_pictures_by_hand() -> None:
    true = np.ones((1, SIZE, SIZE, 3), np.float32)
    true[0, 16:48, 16:48] = (0.8, 0.1, 0.1)
    mask = true.min(-1) < 0.9
    moved = np.roll(true, 8, 2)
    assert control_figures.mask_iou(true, mask) == 1
    assert control_figures.mask_iou(moved, mask) == pytest.approx(24 / 40)
    edges = control_maps.edges(torch.from_numpy(true).permute(0, 3, 1, 2)).permute(0, 2, 3, 1).numpy()
    assert control_figures.edge_figures(true, edges)["edge_f1_1px"] == 1
    far = control_figures.edge_figures(moved, edges)
    assert 0.3 < far["edge_f1_2px"] < 0.8 and far["precision_2px"] < 0.8
    assert control_figures.edge_figures(np.ones_like(true), edges)["recall_2px"] == 0
    assert control_figures.map_edges_found(true, np.repeat(mask[..., None], 3, -1).astype(np.float32)) == 1
    parts = np.where(mask, 3, control_data.NONE).astype(np.uint8)
    other = true.copy()
    other[0, 16:48, 16:48] = (0.5, 0.1, 0.4)
    assert control_figures.part_color_error(true, true, parts) == 0
    assert control_figures.part_color_error(other, true, parts) == pytest.approx(0.2, abs=1e-6)


# -- controls --------------------------------------------------------------------------------------------------------

def test_a_control_learns_while_its_base_stays(house: Path, tmp_path: Path) -> None:
    task = control(house, cls=Control)
    before, digest = loss(task, task.model), lora.base_digest(task.base)
    with torch.no_grad():  # nothing learned yet: the base's own loss
        empty = task.context([""], CPU)
        x = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
        shown = task.train.maps(np.array([0]), np.array([0]))
        under = control_lora.Controlled(task.base, [task.model], [shown])(x, torch.tensor([500]), empty).sample
        assert torch.equal(under, task.base(x, torch.tensor([500]), empty).sample)
    state = train(task, settings(tmp_path, 15, lr=5e-2))
    assert state.finished and loss(task, state.model) < 0.95 * before
    assert lora.base_digest(task.base) == digest
    frozen = [k for k, p in state.model.named_parameters() if not p.requires_grad]
    untouched = control_lora.bare(task.base, CHANNELS)
    assert frozen
    for key in frozen:
        assert torch.equal(state.model.get_parameter(key), untouched.get_parameter(key.replace(".base_layer", "")))
    assert {"edge_f1_2px", "edge_f1_1px", "held_out_loss"} <= set(state.metrics)
    assert (tmp_path / "sheet.png").exists() and (tmp_path / "curve.png").exists()


def test_half_of_the_prompts_are_dropped(house: Path, monkeypatch) -> None:
    task = control(house)
    texts = watched(task, monkeypatch)
    with torch.no_grad():
        for step in range(12):
            task._loss(task.model, task.train, draw(step), 24)
    assert DROPOUT == 0.5
    assert 0.42 < np.mean([t == "" for t in texts]) < 0.58 and any(t.startswith("a ") for t in texts)


def test_a_resumed_control_equals_an_uninterrupted_one(house: Path, tmp_path: Path) -> None:
    whole = train(control(house), settings(tmp_path / "whole", 4))

    class Dies(Unseen):
        def loss(self, model, d):
            if d.step == 2:
                raise KeyboardInterrupt
            return super().loss(model, d)

    task = control(house, cls=Dies)
    with pytest.raises(KeyboardInterrupt):
        train(task, settings(tmp_path / "parts", 4, checkpoint_s=0.0))
    parts = train(control(house, seed=7), settings(tmp_path / "parts", 4))
    assert all(torch.equal(v, parts.ema.state_dict()[k]) for k, v in whole.ema.state_dict().items())


def test_an_exported_control_is_what_was_measured(house: Path, tmp_path: Path) -> None:
    root = tmp_path / "weights"
    shutil.copytree(house / "weights", root)
    task = control(house)
    task.root = root
    state = train(task, settings(tmp_path / "work", 3))
    folder = task.export(state, tmp_path / "work")
    card = verify(folder)
    assert card.trained_on == {"text_to_image": part_digest(root / "text_to_image")}
    assert card.fields["kind"] == "edges" and card.fields["measured_on"] == 4
    base = load_unet(root / "text_to_image" / "unet", "cpu")
    net, rows = control_lora.load_control(folder, base), np.arange(4)
    measured = task.figures(task.pictures(net, task.held_out.maps(rows, 0 * rows), task.examples(4)[2]), rows, 0 * rows)
    for name, value in measured.items():
        assert read_card(folder).fields["metrics"][name] == pytest.approx(value, abs=2e-4)
    again = control(house)
    again.root = root
    again.load_committed()
    kept = load_average(control(house), tmp_path / "work").ema.state_dict()
    mine = again.model.state_dict()
    assert all(torch.equal(mine[k], v.half().float()) for k, v in kept.items() if ".lora_" in k)


def test_poses_train_on_figures(house: Path, tmp_path: Path) -> None:
    task = control(house, "pose", cls=Control)
    assert len(task.train) == 2 and len(task.held_out) == 1
    state = State(task.model, task.model.eval())
    metrics = task.evaluate(state.ema)
    assert {"joints_shown", "mask_iou", "near_skeleton"} <= set(metrics)


def test_what_is_missing_is_said(house: Path) -> None:
    with pytest.raises(FileNotFoundError, match="control_maps"):
        Control("depth", *splits(house), 4, house / "work", house / "maps", root=house / "weights", caption=caption)
    with pytest.raises(ValueError, match="no such kind"):
        Control("smell", *splits(house), 4, house / "work", house / "maps", root=house / "weights")


# -- the image prompt ------------------------------------------------------------------------------------------------

def test_an_image_prompt_learns_exports_and_loads(house: Path, tmp_path: Path, monkeypatch) -> None:
    root = tmp_path / "weights"
    shutil.copytree(house / "weights", root)
    task = prompt(house)
    task.root = root
    monkeypatch.setattr(task, "sheet", lambda model: None)
    before, digest = loss(task, task.model), lora.base_digest(task.base)
    state = train(task, settings(tmp_path / "work", 15, lr=5e-2))
    assert loss(task, state.model) < 0.9 * before and lora.base_digest(task.base) == digest
    folder = task.export(state, tmp_path / "work")
    assert set(verify(folder).trained_on) == {"clip", "text_to_image"}
    weights = ip_adapter.load_image_prompt(folder, load_unet(root / "text_to_image" / "unet", "cpu"))
    for part, tensors in ip_adapter.weights_of(state.ema).items():  # type: ignore[arg-type]
        shipped = unpack(pack({k: v.half() for k, v in tensors.items()}))  # a byte a number
        assert all(torch.equal(weights[part][k], shipped[k].float()) for k in tensors)
    assert json.loads((folder / "card.json").read_text())["part"] == "image_prompt"


def test_prompts_of_an_image_prompt_leave_looks_out(house: Path, monkeypatch) -> None:
    task = prompt(house)
    texts = watched(task, monkeypatch)
    with torch.no_grad():
        for step in range(12):
            task._loss(task.model, task.train, draw(step), 32)
    empty = np.mean([t == "" for t in texts])
    assert abs(empty - NO_TEXT - NEITHER) < 0.08
    said = [t for t in texts if t]
    bare = [t for t in said if not any(c in t for c in ("red", "green", "blue", "yellow"))]
    assert abs(len(bare) / len(said) - KIND_ALONE) < 0.1
    assert colourless("umbrella", np.array([0, 10, 1, 40])) == "an umbrella, front view"
    assert colourless("mug", np.array([45, 10, 1, 40])) == "a mug"
