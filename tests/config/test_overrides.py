import pytest

from beamclip.config import UserError, load_experiment, parse_assignments, with_values
from beamclip.config.overrides import assign, merge


@pytest.fixture
def mine(tmp_path):
    """Function: a preset's text -> its path."""

    def write(text):
        (tmp_path / "mine.yaml").write_text(text)
        return str(tmp_path / "mine.yaml")

    return write


def test_an_empty_mapping_empties_a_setting_that_is_a_mapping(mine):
    preset = mine(
        "anchors:\n  senses: {crane: n02012849}\nobjective: {name: csm+simreg, terms: {simreg: "
        "0.5}}\nviews: {pair_recipe: simclr}\n"
    )
    assert load_experiment(preset).anchors.senses == {"crane": "n02012849"}
    values = parse_assignments(["anchors.senses={}", "objective.terms={}"])
    emptied = load_experiment(preset, values)
    assert emptied.anchors.senses == {} and emptied.objective.terms == {}
    assert with_values(load_experiment(preset), values) == emptied
    assert load_experiment(preset, {"anchors": {"senses": {}}}).anchors.senses == {}


def test_a_mapping_is_merged_unless_it_is_emptied_first(mine):
    preset = mine("anchors: {senses: {crane: n02012849}}\n")
    assert load_experiment(
        preset, parse_assignments(["anchors.senses={maillot: a swimsuit}"])
    ).anchors.senses == {
        "crane": "n02012849",
        "maillot": "a swimsuit",
    }


@pytest.mark.parametrize("section", ["probe", "probe.grid", "objective.swav", "data"])
def test_an_empty_mapping_for_a_section_changes_nothing(section):
    assert load_experiment("demo", {section: {}}) == load_experiment("demo")


def test_an_empty_custom_recipe_is_the_central_view(mine):
    preset = mine("views: {recipe: mild, custom: {mild: {flip: 0.5}}}\n")
    assert (
        load_experiment(preset, parse_assignments(["views.custom.mild={}"]))
        .views.custom["mild"]
        .flip
        == 0
    )


def test_other_mappings_are_merged_in_the_same_way():
    assert merge({"a": {"b": 1}}, {"a": {"c": 2}}) == {"a": {"b": 1, "c": 2}}
    assert assign({"x": {"y": 1}}, {"x.z": 2}) == {"x": {"y": 1, "z": 2}}


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (
            "data.path: /x\n",
            (
                "data.path is written with dots, which is for the command line; "
                "write it nested: data: {path: …}"
            ),
        ),
        (
            "probe: {grid.lr: [1]}\n",
            "probe.grid.lr is written with dots.*nested: probe: {grid: {lr: …}}",
        ),
        ("optimizer.speed: 1\n", "optimizer.speed is not a setting"),
    ],
)
def test_the_error_for_a_dotted_key_in_a_file_shows_the_nested_form(mine, text, says):
    with pytest.raises(UserError, match=says):
        load_experiment(mine(text))


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("/x/run #2", "/x/run #2"),
        (" /x/it's #2 of 3 #4 ", "/x/it's #2 of 3 #4"),
        ("#2", "#2"),
        ("'/x/run #2'", "/x/run #2"),
        ("/x/a#b", "/x/a#b"),
        ("['a #1', b]", ["a #1", "b"]),
        ("", None),
    ],
)
def test_a_number_sign_in_a_value_begins_no_comment(text, value):
    assert parse_assignments([f"storage.path={text}"]) == {"storage.path": value}


@pytest.mark.parametrize("text", ["'/x/run' #2", "[1, 2] # two", "{a: 1} #"])
def test_a_comment_behind_a_quoted_value_or_a_list_is_refused(text):
    with pytest.raises(UserError, match="has a comment after its value"):
        parse_assignments([f"storage.path={text}"])
