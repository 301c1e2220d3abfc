"""Networks in folders and repositories of the Hugging Face hub, without a network."""

from __future__ import annotations

import json
import runpy
import sys
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from compiler import compile
from compiler.interop import hub
from graphspec import SpecError, content_hash, dump, load, resolve

huggingface_hub = pytest.importorskip("huggingface_hub")
COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture(scope="module")
def spec():
    examples = Path(__file__).parents[2] / "examples"
    return load(examples / "dgnet_tiny.yaml", ["stages.layer1.width=8", "stages.layer2.width=8"])


@pytest.fixture(scope="module")
def model(spec):
    torch.manual_seed(0)
    return compile(spec).eval()


@pytest.fixture
def saved(spec, model, tmp_path) -> Path:
    return hub.save(model, tmp_path / "saved", spec)


def assert_same(found, model) -> None:
    assert not found.training
    x = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        assert torch.equal(found(x), model(x))


def test_a_folder_says_all_and_loads_again(saved, spec, model):
    assert {path.name for path in saved.iterdir()} == {
        "config.json", "model.safetensors", "README.md"
    }  # fmt: skip
    config = json.loads((saved / "config.json").read_text())
    assert config["spec_hash"] == content_hash(spec)
    assert config["spec"]["name"] == "dgnet_tiny"
    # Random draws are replaced by their edges.
    wirings = {stage["name"]: stage["wiring"] for stage in config["spec"]["stages"]}
    assert wirings["layer2"]["kind"] == "explicit"
    with safe_open(saved / "model.safetensors", "pt") as file:
        assert file.metadata()["spec_hash"] == content_hash(spec)
    card = (saved / "README.md").read_text()
    assert card.startswith("---\nlibrary_name: graphc\n")
    assert dump(resolve(spec)) in card
    assert_same(hub.load(saved), model)
    assert_same(hub.load(str(saved)), model)


def test_a_run_folder_is_saved(spec, model, tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    (run / "spec.resolved.yaml").write_text(dump(resolve(spec)))
    save_file(model.state_dict(), run / "weights.safetensors")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "README.md").write_text("written by hand")
    assert_same(hub.load(hub.save(run, tmp_path / "out")), model)
    assert (tmp_path / "out" / "README.md").read_text() == "written by hand"


def test_what_cannot_be_saved_is_refused(spec, model, tmp_path):
    folder = tmp_path / "out"
    with pytest.raises(hub.HubError, match="pass it as `spec`"):
        hub.save(model, folder)
    with pytest.raises(hub.HubError, match=r"has no spec\.resolved\.yaml"):
        hub.save(tmp_path, folder)
    (tmp_path / "spec.resolved.yaml").write_text(dump(spec))
    with pytest.raises(hub.HubError, match="cannot read the weights"):
        hub.save(tmp_path, folder)
    other = load(Path(__file__).parents[2] / "examples" / "chain_tiny.yaml")
    with pytest.raises(hub.HubError, match="other weights"):
        hub.save(model, folder, other)
    assert not folder.exists()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda config: config["spec"]["stages"][0].update(width=4), "the spec was changed"),
        (lambda config: config.pop("spec"), "graphc did not write it"),
        (lambda config: config.update(spec_hash="0"), "not 0; the spec was changed"),
    ],
)
def test_a_changed_configuration_is_refused(saved, change, said: str):
    path = saved / "config.json"
    config = json.loads(path.read_text())
    change(config)
    path.write_text(json.dumps(config))
    with pytest.raises(hub.HubError, match=said):
        hub.load(saved)


def test_a_wrong_spec_is_a_finding(saved):
    path = saved / "config.json"
    config = json.loads(path.read_text())
    config["spec"]["stages"][0]["block"] = {"kind": "os.system"}
    path.write_text(json.dumps(config))
    with pytest.raises(SpecError, match=r"there is no block 'os\.system'"):
        hub.load(saved)


def test_damaged_weights_are_refused(saved):
    path = saved / "model.safetensors"
    tensors = {name: tensor.clone() for name, tensor in load_file(path).items()}
    path.write_bytes(b"no weights")
    with pytest.raises(hub.HubError, match=r"cannot read .*model\.safetensors"):
        hub.load(saved)
    tensors.popitem()
    save_file(tensors, path)
    with pytest.raises(hub.HubError, match=r"cannot read .*model\.safetensors"):
        hub.load(saved)


@pytest.fixture
def offline(monkeypatch, tmp_path) -> Path:
    """The hub's cache, empty, and no way to the hub."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_a_repository_loads_from_the_cache(offline, saved, model):
    repository = offline / "models--me--small"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text(COMMIT)
    (repository / "refs" / "v1").write_text(COMMIT)
    (repository / "snapshots").mkdir()
    saved.rename(repository / "snapshots" / COMMIT)
    assert_same(hub.load("me/small"), model)
    assert_same(hub.load("me/small", revision="v1"), model)
    with pytest.raises(hub.HubError, match="'me/small' is no folder, and no repository"):
        hub.load("me/small", revision="v2")


@pytest.mark.parametrize("name", ["me/other", "a/b/c", "no such folder"])
def test_what_is_nowhere_is_said(offline, name: str):
    with pytest.raises(hub.HubError, match=f"'{name}' is no folder, and no repository"):
        hub.load(name)


def test_folders_have_no_revisions(saved):
    with pytest.raises(hub.HubError, match="only a repository has revisions"):
        hub.load(saved, revision="v1")


def test_push_makes_a_repository_and_uploads_the_folder(spec, model, monkeypatch, tmp_path):
    calls: list[tuple[str, dict]] = []

    def upload(**options):
        calls.append(("upload", options))
        assert_same(hub.load(options["folder_path"]), model)
        return "the commit's address"

    monkeypatch.setattr(
        huggingface_hub, "create_repo", lambda name, **options: calls.append((name, options))
    )
    monkeypatch.setattr(huggingface_hub, "file_exists", lambda *_, **__: True)
    monkeypatch.setattr(huggingface_hub, "upload_folder", upload)
    address = hub.push(model, "me/small", spec, private=True, revision="dev")
    assert address == "the commit's address"
    assert calls[0] == ("me/small", {"private": True, "exist_ok": True})
    assert calls[1][1]["repo_id"] == "me/small"
    assert calls[1][1]["revision"] == "dev"
    assert calls[1][1]["ignore_patterns"] == ["README.md"], "written by hand, perhaps"


def test_push_without_a_network_says_so(offline, spec, model):
    with pytest.raises(hub.HubError, match="cannot push to 'me/small'"):
        hub.push(model, "me/small", spec)


def test_a_missing_package_is_said(spec, model, monkeypatch, saved):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    assert_same(hub.load(saved), model)
    with pytest.raises(hub.HubError, match="graphc-nn\\[hub\\]"):
        hub.load("me/small")


def test_torch_hub_knows_every_example(repository):
    entries = runpy.run_path(str(repository / "hubconf.py"))
    names = {name for name, value in entries.items() if callable(value) and name[0] != "_"}
    assert names == {path.stem for path in (repository / "examples").glob("*.yaml")}
    found = torch.hub.load(str(repository), "dgnet_tiny", source="local", device="cpu")
    assert found(torch.rand(2, 3, 32, 32)).shape == (2, 10)
