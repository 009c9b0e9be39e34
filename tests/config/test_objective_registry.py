"""Find objectives and read their declarations without importing torch or running users' files."""

import importlib
import subprocess
import sys

import pytest

from beamclip.config import ObjectiveConfig, UserError, load_experiment, with_values
from beamclip.config.objective_registry import Requirements, built_in_objectives, find_objective
from beamclip.config.reference import model_texts

LOSS = '''
raise RuntimeError("a declaration is read, never run")

@register_objective(requires=Requirements(projected=True, embeddings=True))
def my_loss(
    inputs, *, margin: float = 0.2, kind: Literal["l1", "l2"] = "l2", top: int | None = None
):
    """Pull embeddings together."""
'''


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "my_losses.py"
    path.write_text(LOSS)
    return path


def load(name, **values):
    return load_experiment("demo", {"objective.name": name} | values)


@pytest.mark.slow
@pytest.mark.parametrize("name", built_in_objectives())
def test_a_declaration_read_from_source_is_the_one_imported(name):
    declared = built_in_objectives()[name]
    module = importlib.import_module(declared.module)
    target = getattr(module, declared.target)
    registration = target.__beamclip_objective__
    assert (registration.name, registration.requires) == (name, declared.requires)
    imported = getattr(module, declared.settings.__name__)
    assert imported is not declared.settings
    assert schema(imported) == schema(declared.settings)
    assert descriptions(declared.settings) == texts_in_source(imported)


def schema(settings):
    """Types, bounds and defaults, without the fields' descriptions."""
    tree = settings.model_json_schema()
    for field in tree.get("properties", {}).values():
        field.pop("description", None)
    return tree


def descriptions(settings):
    """The fields' descriptions with single spaces."""
    fields = settings.model_fields.items()
    return {name: " ".join((field.description or "").split()) for name, field in fields}


def texts_in_source(settings):
    """The texts below the fields with single spaces."""
    texts = model_texts(settings)
    return {name: " ".join(texts.get(name, "").split()) for name in settings.model_fields}


def test_built_in_objectives_are_those_documented():
    assert set(built_in_objectives()) == {
        "clip_cid",
        "compress",
        "csm",
        "feature",
        "image_queue",
        "seed",
        "simclr",
        "simreg",
        "supervised",
        "swav",
    }


def test_reading_declarations_imports_no_torch(file):
    script = f"""
import sys
from beamclip.config import ObjectiveConfig
config = ObjectiveConfig(name="csm+{file}:my_loss", my_loss={{"margin": 0.5}})
assert config.my_loss.margin == 0.5 and config.requirements.anchors
sys.exit("torch" in sys.modules)
"""
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0


def test_settings_of_a_file_are_checked_and_have_defaults(file):
    name = f"{file}:my_loss"
    settings = load(name, **{"objective.my_loss.margin": 1}).objective.my_loss
    assert (settings.margin, settings.kind, settings.top) == (1.0, "l2", None)
    dumped = load(name).objective.model_dump(mode="json")
    assert dumped["my_loss"] == {"margin": 0.2, "kind": "l2", "top": None}
    assert ObjectiveConfig.model_validate(dumped).my_loss == load(name).objective.my_loss


def test_a_sum_of_a_built_in_objective_and_one_from_a_file(file):
    objective = load(f"simclr+{file}:my_loss", **{"objective.terms": {"my_loss": 0.5}}).objective
    assert objective.parts == ("simclr", "my_loss")
    assert objective.label == "simclr+my_loss"
    assert objective.weights == {"simclr": 1.0, "my_loss": 0.5}
    assert objective.requirements == Requirements(views=2, projected=True, embeddings=True)


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"objective.my_loss.margin": "x"}, "objective.my_loss.margin is 'x': "),
        ({"objective.my_loss.margn": 1}, "my_loss has no such setting; did you mean margin?"),
        ({"objective.my_loss.kind": "l3"}, "objective.my_loss.kind can't be 'l3'"),
        ({"objective.my_los.margin": 1}, "objective.my_los is not a setting"),
        (
            {"objective.terms": {"my_los": 2}},
            "my_los, which is not an objective; did you mean my_loss?",
        ),
    ],
)
def test_a_wrong_setting_is_a_user_error(file, values, sentence):
    with pytest.raises(UserError, match=".*") as caught:
        load(f"{file}:my_loss", **values)
    assert sentence in str(caught.value)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "declares no objective; put @beamclip.register_objective(requires=…) above my_loss"),
        ("def my_loss(", "is not valid Python: '(' was never closed (line 1)"),
        (
            LOSS.replace("my_loss", "my_lose"),
            "declares no objective my_loss; did you mean my_lose?",
        ),
        (LOSS.replace("= 0.2", "= 2 * X"), "2 * X is not a literal; write a number"),
        (LOSS.replace(": float = 0.2", ""), "the setting margin needs a default"),
        (LOSS.replace("float", "Path"), "the setting margin is a Path; use float, int"),
        (
            LOSS.replace("projected", "projectd"),
            "Requirements has no projectd; did you mean projected?",
        ),
        (
            LOSS.replace("requires=", "require="),
            "register_objective needs requires=Requirements(…)",
        ),
    ],
)
def test_a_file_that_declares_nothing_usable_is_a_user_error(file, text, sentence):
    file.write_text(text)
    with pytest.raises(UserError) as caught:
        load(f"{file}:my_loss")
    assert sentence in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_a_user_error(tmp_path):
    with pytest.raises(UserError, match="none.py can't be read: No such file or directory"):
        load(f"{tmp_path}/none.py:my_loss")


def test_an_objective_with_a_built_in_name_is_refused(file):
    file.write_text(LOSS.replace("def my_loss", "def csm"))
    with pytest.raises(UserError, match="is called csm, as a built-in objective is; give it anot"):
        load(f"{file}:csm")


def test_an_objective_named_twice_is_refused(file):
    with pytest.raises(UserError, match="names an objective twice"):
        load(f"{file}:my_loss+{file}:my_loss")


def test_an_objective_s_text_in_the_settings_needs_no_file(file):
    path = str(file)
    code = {path: file.read_text()}
    file.unlink()
    declaration = find_objective(f"{path}:my_loss", code)
    assert declaration.requires == Requirements(projected=True, embeddings=True)


def install(folder, entry_point):
    """Write a package with `LOSS` that offers an objective as `far_away`."""
    package = folder / "someones_losses"
    package.mkdir()
    (package / "__init__.py").write_text("raise RuntimeError('not imported here')\n")
    (package / "far.py").write_text(LOSS)
    info = folder / "someones_losses-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: someones-losses\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[beamclip.objectives]\nfar_away = {entry_point}\n")


@pytest.mark.parametrize(
    ("entry_point", "sentence"),
    [
        (
            "someones_losses.far",
            "is 'someones_losses.far'; its package must write it as MODULE:NAME",
        ),
        ("someones_losses.far:", "its package must write it as MODULE:NAME"),
        ("math:sin", "module math is not installed as Python source"),
        ("someones_losses.gone:f", "module someones_losses.gone is not installed as Python source"),
        ("someones_losses.far:gone", "declares no objective gone"),
    ],
)
def test_a_broken_entry_point_is_a_user_error(tmp_path, monkeypatch, entry_point, sentence):
    install(tmp_path, entry_point)
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(UserError) as caught:
        load("far_away")
    assert sentence in str(caught.value)


def test_the_home_of_an_unknown_user_is_a_user_error():
    with pytest.raises(UserError, match=r"file ~no_such_user/my.py can't be read: .*home"):
        load("~no_such_user/my.py:my_loss")


def test_an_entry_point_of_another_package_is_found_without_importing_it(tmp_path, monkeypatch):
    install(tmp_path, "someones_losses.far:my_loss")
    monkeypatch.syspath_prepend(str(tmp_path))
    objective = load("csm+far_away", **{"objective.far_away.margin": 0.5}).objective
    assert objective.parts == ("csm", "far_away")
    assert objective.far_away.margin == 0.5
    assert objective.declarations[1].module == "someones_losses.far"


@pytest.mark.parametrize("name", ["clusters", "weights", "copy", "code", "terms"])
def test_an_objective_with_the_name_of_a_settings_attribute_is_refused(file, name):
    file.write_text(LOSS.replace("def my_loss", f"def {name}"))
    with pytest.raises(UserError, match=f"is called {name}, which can't name its section"):
        load(f"{file}:{name}")


def test_a_trial_may_have_another_objective_than_its_base(file):
    base = load(f"{file}:my_loss")
    assert with_values(base, {"objective.name": "csm"}).objective.label == "csm"
    both = with_values(base, {"objective.name": f"csm+{file}:my_loss"})
    assert both.objective.label == "csm+my_loss"


@pytest.mark.parametrize(
    ("old", "new", "sentence"),
    [
        ("requires=Requirements(", "requires=dict(", "write Requirements"),
        ("requires=Requirements(", "requires=Requirements(2, ", "with the name of each argument"),
        ("projected=True", "views=0", "Requirements has views=0; write 1 or more"),
        ("projected=True", "projected=1", "Requirements has projected=1; write True or False"),
        ("projected=True", "clusters=True", "it needs their number as a setting: clusters: int"),
        ("*, ", "", "has a default but is not a setting; write *, before it to make it one"),
    ],
)
def test_a_declaration_that_would_be_misread_is_refused(file, old, new, sentence):
    assert old in LOSS
    file.write_text(LOSS.replace(old, new, 1))
    with pytest.raises(UserError) as caught:
        load(f"{file}:my_loss")
    assert sentence in str(caught.value)
