"""The engine on small plain modules: what is computed, and what survives a crash."""

from __future__ import annotations

import errno
import math
import multiprocessing
import os
import random
import signal
import socket
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from runtime.aggregate import LearnedSum, Sum
from runtime.training import checkpoint as checkpoint_module
from runtime.training.arrays import ArrayDataset, shift
from runtime.training.batches import Share, derive_seed
from runtime.training.checkpoint import checkpoints, load_checkpoint, save_checkpoint
from runtime.training.drop_edge import DropEdge
from runtime.training.engine import (
    Engine,
    Execution,
    make_optimizer,
    make_scheduler,
    parameter_groups,
)
from runtime.training.errors import DataError, DivergedError, StorageError
from runtime.training.evaluation import evaluate, reestimate_batch_norm
from runtime.training.processes import Processes, join
from runtime.training.recipe import Recipe, RecipeError
from runtime.training.sources import open_data
from runtime.training.task import Classification

CPU = Processes(torch.device("cpu"))
RECIPE = Recipe(
    epochs=3,
    batch_size=16,
    lr=0.1,
    nesterov=True,
    warmup_epochs=1,
    label_smoothing=0.1,
    ema_decay=0.9,
    clip_norm=5.0,
    crop_padding=1,
    horizontal_flip=True,
)
EVERY_STEP = Execution(checkpoint_seconds=0)


class Silent:
    """An observer that keeps the losses."""

    def __init__(self) -> None:
        self.losses: list[float] = []
        self.resumed_at: int | None = None
        self.damaged: list[Path] = []

    def say(self, text: str) -> None:
        pass

    def on_resume(self, step: int, damaged: list[Path]) -> None:
        self.resumed_at, self.damaged = step, damaged

    def on_start(self, step: int, total_steps: int, steps_per_epoch: int) -> None:
        pass

    def on_step(self, step: int, loss: float) -> None:
        self.losses.append(loss)

    def on_epoch(self, record: dict[str, float], history: list[dict[str, float]]) -> None:
        pass


class Killer(Silent):
    """Kills its process, as `kill -9` does, after a step."""

    def __init__(self, at: int) -> None:
        super().__init__()
        self.at = at

    def on_step(self, step: int, loss: float) -> None:
        if step == self.at:
            os.kill(os.getpid(), signal.SIGKILL)


def patterns(num_train: int = 80, num_test: int = 40) -> ArrayDataset:
    """Four classes of noisy 8x8 patterns."""
    generator = torch.Generator().manual_seed(0)
    prototypes = torch.randn(4, 1, 8, 8, generator=generator)

    def part(num: int) -> tuple[Tensor, Tensor]:
        labels = torch.arange(num) % 4
        return prototypes[labels] + torch.randn(num, 1, 8, 8, generator=generator), labels

    return ArrayDataset("patterns", *part(num_train), *part(num_test))


def network() -> nn.Module:
    torch.manual_seed(1)
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1, bias=False),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Dropout(0.2),
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
        nn.Linear(32, 4),
    )


def engine(
    folder: Path,
    observer: Silent | None = None,
    *,
    recipe: Recipe = RECIPE,
    processes: Processes = CPU,
    accumulate: int = 1,
    execution: Execution = EVERY_STEP,
    model: nn.Module | None = None,
    identity: str = "job",
) -> Engine:
    data = patterns()
    share = Share(recipe.batch_size, processes.rank, processes.world, accumulate)
    return Engine(
        model or network(),
        recipe,
        Classification(
            data.training(recipe, share, 7, processes.device, 0),
            lambda: data.testing(16, processes.device, 0, processes.rank, processes.world),
            recipe.label_smoothing,
        ),
        folder,
        observer or Silent(),
        identity=identity,
        processes=processes,
        execution=execution,
    )


def same_bits(one: nn.Module, other: nn.Module) -> bool:
    pairs = zip(one.state_dict().values(), other.state_dict().values(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


# A server that has torch loaded forks the processes to be killed: milliseconds each. Without
# torch._dynamo, which the first optimizer imports, they would take seconds.
SERVER = multiprocessing.get_context("forkserver")
SERVER.set_forkserver_preload(["pytest", "torch._dynamo", "runtime.training.sources"])


def attempt(folder: Path, kill_at: int, checkpoint_seconds: float) -> None:
    torch.set_num_threads(1)
    engine(
        folder, Killer(kill_at), execution=Execution(checkpoint_seconds=checkpoint_seconds)
    ).fit()


def attempt_killed_while_saving(folder: Path, nth: int) -> None:
    """Dies between the writing of a checkpoint and its renaming."""
    torch.set_num_threads(1)
    calls = 0
    fsync = os.fsync

    def die(descriptor: int) -> None:
        nonlocal calls
        calls += 1
        if calls == nth:
            os.kill(os.getpid(), signal.SIGKILL)
        fsync(descriptor)

    checkpoint_module.os.fsync = die
    engine(folder).fit()


def run_and_die(target: object, *arguments: object) -> None:
    process = SERVER.Process(target=target, args=arguments)
    process.start()
    process.join(60)
    assert process.exitcode == -signal.SIGKILL


def test_a_run_killed_at_ten_random_steps_ends_with_the_same_bits(tmp_path: Path) -> None:
    rng = random.Random("kills")
    whole = engine(tmp_path / "whole")
    history = whole.fit()
    steps = sorted(rng.sample(range(1, whole.total_steps), 10))

    for step in steps:
        run_and_die(attempt, tmp_path / "killed", step, 0.0)
    observer = Silent()
    last = engine(tmp_path / "killed", observer)
    resumed_history = last.fit()

    assert observer.resumed_at == steps[-1] - 1  # killed before the step's checkpoint
    assert same_bits(whole.model, last.model)
    assert same_bits(whole.result, last.result)
    for record in (*history, *resumed_history):
        del record["seconds"]
    assert history == resumed_history


def test_a_run_without_a_checkpoint_yet_begins_anew(tmp_path: Path) -> None:
    whole = engine(tmp_path / "whole")
    whole.fit()

    run_and_die(attempt, tmp_path / "killed", 7, 1e9)
    last = engine(tmp_path / "killed")
    last.fit()

    assert same_bits(whole.result, last.result)


def test_a_run_killed_while_it_saves_keeps_the_checkpoint_before(tmp_path: Path) -> None:
    whole = engine(tmp_path / "whole")
    whole.fit()

    run_and_die(attempt_killed_while_saving, tmp_path / "killed", 9)  # two a checkpoint
    observer = Silent()
    last = engine(tmp_path / "killed", observer)
    assert observer.resumed_at == 4
    last.fit()

    assert same_bits(whole.result, last.result)


@pytest.mark.parametrize("damage", ["truncated", "flipped"])
def test_a_damaged_checkpoint_is_passed_over(tmp_path: Path, damage: str) -> None:
    whole = engine(tmp_path)
    whole.fit()
    newest, older = checkpoints(tmp_path)
    content = bytearray(newest.read_bytes())
    if damage == "truncated":
        content = content[: len(content) // 2]
    else:
        with zipfile.ZipFile(newest) as archive:
            largest = max(archive.infolist(), key=lambda record: record.file_size)
        # 30 bytes of header, then the name and the padding come before a record's content.
        content[largest.header_offset + 30 + 64 + largest.file_size // 2] ^= 1
    newest.write_bytes(content)

    observer = Silent()
    again = engine(tmp_path, observer)

    assert observer.damaged == [newest]
    assert older.stem == f"step-{observer.resumed_at:09d}"
    again.fit()
    assert same_bits(whole.result, again.result)


def test_a_run_whose_checkpoints_are_all_damaged_says_so(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, 3, {"step": 3})
    checkpoints(tmp_path)[0].write_bytes(b"PK")

    with pytest.raises(StorageError, match=r"all checkpoints in .* are damaged"):
        engine(tmp_path)


def test_a_checkpoint_of_another_job_is_refused(tmp_path: Path) -> None:
    engine(tmp_path).fit()

    with pytest.raises(StorageError, match="belongs to another spec, recipe, seed or data"):
        engine(tmp_path, identity="other")


def test_a_full_disk_keeps_the_last_good_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_checkpoint(tmp_path, 3, {"step": 3})

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(checkpoint_module.os, "fsync", full)
    with pytest.raises(StorageError, match=r"cannot write .*step-000000004.pt .*disk is full"):
        save_checkpoint(tmp_path, 4, {"step": 4})

    state, damaged = load_checkpoint(tmp_path)
    assert state == {"step": 3}
    assert damaged == []
    assert [path.name for path in tmp_path.iterdir()] == ["step-000000003.pt"]


class Overflow(nn.Module):
    """Hands on what it gets, until its third training step."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += self.training
        return x * math.inf if self.calls >= 3 else x


class SquareRoot(nn.Module):
    """Finite at 0, with an infinite derivative."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.sqrt(x * 0)


def staged(module: nn.Module) -> nn.Module:
    node = nn.Sequential()
    node.add_module("conv1", nn.Conv2d(1, 4, 3, padding=1))
    node.add_module("odd", module)
    stage = nn.Sequential()
    stage.add_module("n2", node)
    model = nn.Sequential()
    model.add_module("layer1", stage)
    model.add_module("head", nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 4)))
    return model


@pytest.mark.parametrize(
    ("module", "where", "message"),
    [
        (
            Overflow(),
            "layer1.n2.odd",
            r"epoch 1, step 3 of 5: the output of layer1\.n2\.odd \(Overflow\) "
            r"\(stage layer1, node n2\)",
        ),
        (SquareRoot(), "layer1.n2.conv1", r"epoch 1, step 1 of 5: the gradient that reaches"),
    ],
)
def test_a_run_that_diverges_names_the_node(
    tmp_path: Path, module: nn.Module, where: str, message: str
) -> None:
    run = engine(tmp_path, model=staged(module))

    with pytest.raises(DivergedError, match=message) as caught:
        run.fit()

    assert caught.value.where == where
    assert len(checkpoints(tmp_path)) == (2 if isinstance(module, Overflow) else 0)


def train_as_one_of(rank: int, world: int, port: int, folder: Path, results: object) -> None:
    os.environ |= {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(world),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
    }
    torch.set_num_threads(1)
    processes = join("cpu")
    observer = Silent()
    recipe = Recipe(**(RECIPE.as_mapping() | {"no_weight_decay": ("norm",)}))
    run = engine(folder, observer, recipe=recipe, processes=processes, accumulate=4 // world)
    run.model.get_submodule("3").p = 0.0  # a process draws its own dropout
    run.fit()
    results.put((rank, observer.losses, run.model.state_dict()["6.weight"].tolist()))
    processes.close()


@pytest.mark.slow
def test_one_two_and_four_processes_compute_the_same_losses(tmp_path: Path) -> None:
    """With as many samples a micro-batch, for batch norm sees one micro-batch at a time."""
    losses: dict[int, list[float]] = {}
    weights: dict[int, Tensor] = {}
    for world in (1, 2, 4):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        results = SERVER.Queue()
        started = [
            SERVER.Process(
                target=train_as_one_of,
                args=(rank, world, port, tmp_path / f"{world}", results),
            )
            for rank in range(world)
        ]
        for process in started:
            process.start()
        outcomes = sorted(results.get(timeout=120) for _ in started)
        for process in started:
            process.join(60)
        assert all(outcome[1] == outcomes[0][1] for outcome in outcomes)
        losses[world], weights[world] = outcomes[0][1], torch.tensor(outcomes[0][2])

    assert len(losses[1]) == 15
    for world in (2, 4):
        assert losses[world] == pytest.approx(losses[1], abs=1e-5)
        torch.testing.assert_close(weights[world], weights[1], rtol=0, atol=1e-5)


def test_micro_batches_split_a_global_batch_alike_for_any_number_of_processes() -> None:
    alone = Share(24, accumulate=4).slices()

    for world in (2, 4):
        shares = [Share(24, rank, world, 4 // world).slices() for rank in range(world)]
        in_turn = [share[micro] for micro in range(4 // world) for share in shares]
        assert in_turn == alone
    with pytest.raises(DataError, match="a batch of 10 does not split into 2 processes x 2"):
        Share(10, 0, 2, 2)


def test_an_epoch_that_starts_late_sees_the_same_batches() -> None:
    batches = patterns().training(RECIPE, Share(16), 7, CPU.device, 0)
    whole, late = list(batches.epoch(2)), list(batches.epoch(2, 3))

    assert len(whole) == 5
    for expected, found in zip(whole[3:], late, strict=True):
        assert torch.equal(expected[0][0], found[0][0])
        assert torch.equal(expected[0][1], found[0][1])
    assert not torch.equal(whole[0][0][1], next(batches.epoch(3))[0][1])
    assert sorted(batches.order(0).flatten().tolist()) == list(range(80))


def test_shift_moves_each_image_by_its_own_offset() -> None:
    images = torch.rand(6, 2, 5, 4)
    draws = torch.rand(6, 2, generator=torch.Generator().manual_seed(0))
    padded = torch.nn.functional.pad(images, (2, 2, 2, 2))

    moved = shift(images, draws, 2)

    for sample, (row, column) in enumerate((draws * 5).long().tolist()):
        expected = padded[sample, :, row : row + 5, column : column + 4]
        assert torch.equal(moved[sample], expected)


def test_training_images_are_normalised_per_channel() -> None:
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (5000, 2, 3, 3), generator=generator, dtype=torch.uint8)
    labels = torch.zeros(5000, dtype=torch.long)
    data = ArrayDataset("grey", images, labels, images, labels)
    recipe = Recipe(epochs=1, batch_size=5000, lr=0.1)

    ((batch, _),) = next(data.training(recipe, Share(5000), 0, CPU.device, 0).epoch(0))

    torch.testing.assert_close(batch.mean((0, 2, 3)), torch.zeros(2), atol=1e-4, rtol=0)
    torch.testing.assert_close(batch.std((0, 2, 3)), torch.ones(2), atol=1e-3, rtol=0)


def test_the_rate_rises_linearly_then_falls_along_half_a_cosine() -> None:
    recipe = Recipe(epochs=10, batch_size=1, lr=0.4, warmup_epochs=2)
    optimizer = torch.optim.SGD(nn.Linear(1, 1).parameters(), recipe.lr)
    scheduler = make_scheduler(optimizer, recipe, steps_per_epoch=5)

    rates = []
    for _ in range(50):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()

    rise = [0.4 * (step + 1) / 10 for step in range(10)]
    fall = [0.2 * (1 + math.cos(math.pi * step / 40)) for step in range(40)]
    assert rates == pytest.approx(rise + fall, abs=1e-9)
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0, abs=1e-9)


def test_rates_that_fall_after_some_epochs() -> None:
    recipe = Recipe(epochs=6, batch_size=8, lr=0.4, warmup_epochs=1, lr_drops=(3, 5))
    optimizer = make_optimizer(network(), recipe)
    scheduler = make_scheduler(optimizer, recipe, steps_per_epoch=4)

    rates = []
    for _ in range(24):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()

    rise = [0.4 * (step + 1) / 4 for step in range(4)]
    assert rates == pytest.approx(rise + [0.4] * 8 + [0.04] * 8 + [0.004] * 4, abs=1e-12)


def test_parameters_are_decayed_by_group() -> None:
    model = network()
    model.register_parameter("threshold", nn.Parameter(torch.zeros(3)))
    groups = {name: group for name, _, group in parameter_groups(model)}
    recipe = Recipe(epochs=1, batch_size=1, lr=0.1, no_weight_decay=("norm", "edges"))

    assert groups == {
        "threshold": "edges",
        "0.weight": "weight",
        "1.weight": "norm",
        "1.bias": "norm",
        "6.weight": "weight",
        "6.bias": "bias",
    }
    decayed, undecayed = make_optimizer(model, recipe).param_groups
    assert [p.numel() for p in undecayed["params"]] == [3, 8, 8]
    assert (decayed["weight_decay"], undecayed["weight_decay"]) == (1e-4, 0.0)


def test_the_averaged_network_is_the_moving_average_of_the_weights(tmp_path: Path) -> None:
    steps: list[Tensor] = []

    class Recorder(Silent):
        def on_step(self, step: int, loss: float) -> None:
            steps.append(run.model.state_dict()["6.weight"].clone())

    run = engine(tmp_path, Recorder())
    run.fit()

    expected = steps[0]
    for weight in steps[1:]:
        expected = 0.9 * expected + 0.1 * weight
    torch.testing.assert_close(run.result.state_dict()["6.weight"], expected)
    assert (
        run.history[-1]["test_accuracy"]
        == evaluate(run.result, patterns().testing(40, CPU.device, 0), CPU)["accuracy"]
    )


class Graph(nn.Module):
    """Two sums: one of two edges, one of three."""

    def __init__(self) -> None:
        super().__init__()
        self.first = Sum([1.0, 1.0])
        self.second = LearnedSum([None, None, None], function="free", init=[1.0, 1.0, 1.0])

    def forward(self, x: Tensor) -> Tensor:
        return self.second([self.first([x, 10 * x]), 100 * x, 1000 * x])


def test_drop_edge_drops_one_edge_a_step_and_all_alike() -> None:
    model = Graph()
    drop_edge = DropEdge(model, 0.5)
    x = torch.ones(1, 1, 1, 1)
    outputs: list[float] = []
    for seed in range(2000):
        with drop_edge.step(seed):
            outputs.append(model(x).item())

    assert model(x).item() == 1111  # nothing stays dropped
    dropped = {1111 - output for output in outputs if output != 1111}
    assert dropped == {1, 10, 11, 100, 1000}
    assert outputs.count(1111) == pytest.approx(1000, abs=100)
    for amount in dropped:
        assert outputs.count(1111 - amount) == pytest.approx(200, abs=60)


def test_a_dropped_edge_gets_no_gradient() -> None:
    model = Graph()
    drop_edge = DropEdge(model, 1.0)
    drop_edge.edges = [(model.second, 1)]

    with drop_edge.step(0):
        model(torch.ones(1, 1, 1, 1)).backward()

    assert model.second.weight.grad.tolist() == [11, 0, 1000]


def test_what_a_dropped_edge_cuts_off_has_gradients_of_zero() -> None:
    """None at all, and the next step under DDP would wait for them."""
    model = LearnedSum([None, None], function="free", init=[1.0, 1.0])
    drop_edge = DropEdge(model, 1.0)
    drop_edge.edges = [(model, 0)]
    values = [torch.ones(1, 1, 1, 1, requires_grad=True) for _ in range(2)]

    with drop_edge.step(0):
        model(values).backward()

    assert [value.grad is not None and value.grad.item() for value in values] == [0, 1]


def test_drop_edge_without_effect_is_refused(tmp_path: Path) -> None:
    recipe = Recipe(epochs=1, batch_size=16, lr=0.1, drop_edge=0.1)
    with pytest.raises(RecipeError, match="drop_edge: has no effect"):
        engine(tmp_path, recipe=recipe)


def test_reestimated_statistics_are_those_of_the_data() -> None:
    norm = nn.BatchNorm2d(3, momentum=0.1)
    batches = [(torch.randn(50, 3, 4, 4) * 3 + 1, torch.zeros(50)) for _ in range(4)]
    images = torch.stack([images for images, _ in batches])

    reestimate_batch_norm(norm, batches)

    torch.testing.assert_close(norm.running_mean, images.mean((0, 1, 3, 4)))
    per_batch = torch.stack([batch.var((0, 2, 3)) for batch in images])
    torch.testing.assert_close(norm.running_var, per_batch.mean(0))
    assert (norm.momentum, norm.training) == (0.1, False)


def test_seeds_of_different_purposes_differ() -> None:
    seeds = {derive_seed(0, purpose, n) for purpose in ("order", "step") for n in range(100)}
    assert len(seeds) == 200
    assert derive_seed(3, "order", 4) == derive_seed(3, "order", 4)
    assert all(0 <= seed < 2**63 for seed in seeds)


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ({"lr": 0.1, "batch_size": 8}, "epochs: is missing"),
        ({"epoch": 3}, "epoch: unknown name 'epoch'; did you mean 'epochs'?"),
        ({"epochs": 3.5}, "epochs: 3.5 is not a whole number"),
        ({"epochs": True}, "epochs: True is not a whole number"),
        ({"epochs": 0}, "epochs: 0 is not within 1 .. 100000"),
        ({"lr": "fast"}, "lr: 'fast' is not a number"),
        ({"lr": 0}, "lr: 0.0 is not above 0"),
        ({"lr": float("nan")}, "lr: nan is not within"),
        ({"momentum": 1.5}, "momentum: 1.5 is not within 0 .. 1"),
        ({"warmup_epochs": 9}, "warmup_epochs: 9.0 is more than the 3 epochs"),
        ({"nesterov": True, "momentum": 0}, "nesterov: has no meaning with momentum 0"),
        ({"no_weight_decay": "norm"}, "no_weight_decay: 'norm' is not a list of names"),
        ({"no_weight_decay": ["norms"]}, "unknown name 'norms'; did you mean 'norm'?"),
        ({"resized_crop": True, "crop_padding": 2}, "crop_padding: crops a second time"),
    ],
)
def test_a_wrong_recipe_names_the_entry(entries: dict[str, object], message: str) -> None:
    base = {} if entries.keys() == {"lr", "batch_size"} else RECIPE_BASE
    with pytest.raises(RecipeError) as caught:
        Recipe.from_mapping(base | entries)
    assert message in str(caught.value)


RECIPE_BASE: dict[str, object] = {"epochs": 3, "batch_size": 8, "lr": 0.1}


def test_a_recipe_survives_as_a_mapping() -> None:
    assert Recipe.from_mapping(RECIPE.as_mapping()) == RECIPE


def arrays(**changes: object) -> dict[str, object]:
    grey = np.zeros((6, 5, 4), np.uint8)
    labels = np.arange(6) % 3
    return {"x_train": grey, "y_train": labels, "x_test": grey, "y_test": labels} | changes


def nhwc(*shape: int) -> np.ndarray:
    return np.zeros(shape, np.uint8)


@pytest.mark.parametrize(
    ("images", "shape"),
    [
        (nhwc(6, 5, 4), (1, 5, 4)),
        (nhwc(6, 5, 4, 3), (3, 5, 4)),
        (np.zeros((6, 3, 5, 4), np.float64), (3, 5, 4)),
    ],
)
def test_npz_images_are_read_in_their_layout(
    tmp_path: Path, images: np.ndarray, shape: tuple[int, int, int]
) -> None:
    path = tmp_path / "a.npz"
    np.savez(path, **arrays(x_train=images, x_test=images))

    data = open_data(str(path), tmp_path, shape)

    assert isinstance(data, ArrayDataset)
    assert (data.image_shape, data.num_classes) == (shape, 3)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"x_train": nhwc(6, 3, 32, 32)}, "uint8 images of shape 6x3x32x32 look like NCHW"),
        ({"x_train": np.zeros((6, 4, 4))}, "images of type float64 and shape 6x4x4"),
        ({"x_train": np.zeros((6, 5, 4), np.int64)}, "images of type int64"),
        ({"x_test": nhwc(6, 5, 5)}, "training images are 6x1x5x4, test images 6x1x5x5"),
        ({"y_train": np.arange(5)}, "6 train images, but labels of shape 5"),
        ({"y_train": np.arange(6) - 1}, "the train labels are not whole numbers from 0"),
        ({"y_test": np.arange(6) / 2}, "the test labels are not whole numbers from 0"),
        ({"x_test": np.full((6, 1, 5, 4), np.nan)}, "test image 0 holds values that are not"),
    ],
)
def test_npz_files_that_cannot_be_meant_are_refused(
    tmp_path: Path, changes: dict[str, object], message: str
) -> None:
    path = tmp_path / "a.npz"
    np.savez(path, **arrays(**changes))

    with pytest.raises(DataError) as caught:
        open_data(str(path), tmp_path, (1, 5, 4))

    assert message in str(caught.value)


def test_data_that_is_not_there_is_named(tmp_path: Path) -> None:
    shape = (1, 8, 8)
    (tmp_path / "broken.npz").write_bytes(b"PK\x03\x04 no archive")
    np.savez(tmp_path / "half.npz", x_train=nhwc(2, 2, 2))
    np.savez_compressed(tmp_path / "bits.npz", **arrays())
    damaged = bytearray((tmp_path / "bits.npz").read_bytes())
    damaged[60:90] = bytes(30)
    (tmp_path / "bits.npz").write_bytes(damaged)
    (tmp_path / "folder").mkdir()
    for name, message in [
        ("digit", "no data 'digit'; did you mean 'digits'?"),
        (str(tmp_path / "no.npz"), "no.npz does not exist"),
        (str(tmp_path / "broken.npz"), "cannot read"),
        (str(tmp_path / "bits.npz"), "cannot read"),
        (str(tmp_path / "half.npz"), "lacks y_train, x_test, y_test (found: x_train)"),
        (str(tmp_path / "folder"), "has no folder train (found: nothing)"),
        ("imagenet", "imagenet does not exist"),
    ]:
        with pytest.raises(DataError) as caught:
            open_data(name, tmp_path, shape)
        assert message in str(caught.value)


def test_a_missing_torchvision_set_says_where_it_was_looked_for(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"fashion_mnist is not in .*--data-dir .*`graphc train"):
        open_data("fashion_mnist", tmp_path, (1, 28, 28))


@pytest.fixture
def image_folder(tmp_path: Path) -> Path:
    from PIL import Image

    rng = np.random.default_rng(0)
    for part, num in (("train", 6), ("val", 3)):
        for label in ("cat", "dog"):
            folder = tmp_path / part / label
            folder.mkdir(parents=True)
            for index in range(num):
                pixels = rng.integers(0, 256, (20, 24, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / f"{index}.png")
    return tmp_path


FOLDER_RECIPE = Recipe(epochs=1, batch_size=4, lr=0.1, resized_crop=True, horizontal_flip=True)


def test_an_image_folder_gives_the_same_batches_with_and_without_workers(
    image_folder: Path,
) -> None:
    data = open_data(str(image_folder), image_folder, (3, 16, 16))
    alone = data.training(FOLDER_RECIPE, Share(4, accumulate=2), 0, CPU.device, 0)
    helped = data.training(FOLDER_RECIPE, Share(4, accumulate=2), 0, CPU.device, 1)

    batches, same = list(alone.epoch(0)), list(helped.epoch(0, 1))

    assert [images.shape for images, _ in batches[0]] == [(2, 3, 16, 16)] * 2
    for expected, found in zip(batches[1:], same, strict=True):
        for one, other in zip(expected, found, strict=True):
            assert torch.equal(one[0], other[0])
            assert torch.equal(one[1], other[1])
    tested = list(data.testing(4, CPU.device, 0))
    assert torch.cat([labels for _, labels in tested]).tolist() == [0, 0, 0, 1, 1, 1]
    assert data.num_classes == 2


def test_an_unreadable_sample_is_named(image_folder: Path) -> None:
    (image_folder / "train" / "dog" / "3.png").write_bytes(b"\x89PNG broken")
    data = open_data(str(image_folder), image_folder, (3, 16, 16))

    for workers in (0, 1):
        batches = data.training(FOLDER_RECIPE, Share(4), 0, CPU.device, workers)
        with pytest.raises(DataError, match=r"unreadable sample .*train/dog/3\.png"):
            list(batches.epoch(0))


def test_a_dying_worker_is_reported_as_such(
    image_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from runtime.training import folders

    data = open_data(str(image_folder), image_folder, (3, 16, 16))
    batches = data.training(FOLDER_RECIPE, Share(4), 0, CPU.device, 1)
    parent = os.getpid()

    def die(images: object, key: object) -> None:
        assert os.getpid() != parent
        os.kill(os.getpid(), signal.SIGKILL)

    monkeypatch.setattr(folders._Images, "__getitem__", die)
    with pytest.raises(DataError, match="a data worker process died"):
        list(batches.epoch(0))
