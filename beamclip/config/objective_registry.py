"""Find objectives and read their declarations: name, settings, requirements. Imports no torch.

An objective is one Python file: settings, requirements and the loss together. Its file imports
torch, and the driver of a sweep must not. So a declaration is read from the file's *source*, and
the file itself is only imported where a loss is computed.

Three kinds of objectives are found:

- built-in: every file in `beamclip/objectives/` that uses `@register_objective`. Its settings are a
  pydantic class, `@register_objective("simclr", settings=SimclrSettings, requires=…)`. Of the
  source, only the settings classes are executed.
- a file of the user: `objective.name=./my_losses.py:my_loss`. Its settings are the keyword-only
  parameters of the function, or of `__init__` if it is a class. Nothing of it is executed here.
- an entry point of an installed package, group `beamclip.objectives`, such as
  `my_loss = "my_package.losses:my_loss"`. Its settings are declared as in a user's file.
"""

import ast
import types
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, fields
from functools import cache, lru_cache
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Any, ClassVar, Literal, TypeVar

from pydantic import create_model

from beamclip.config.base import Count, Positive, Strict
from beamclip.config.errors import nearest

ENTRY_POINTS = "beamclip.objectives"
"""Group of entry points by which other packages offer objectives."""

_FOLDER = Path(__file__).parents[1] / "objectives"  # not importlib.resources, which imports it
_FILE = ".py:"
_DECORATOR = "register_objective"
_IMPORTS = (
    "typing",
    "pydantic",
    "beamclip.config.base",
    "beamclip.config.errors",
    "beamclip.config.objective_registry",
)
"""Modules that the settings of a built-in objective may use."""
_TYPES: Mapping[str, Any] = {
    "float": float,
    "int": int,
    "bool": bool,
    "str": str,
    "Positive": Positive,
    "Count": Count,
    "None": None,
}
"""Annotations that a setting of a user's objective may have, besides `X | None` and `Literal`."""

Target = TypeVar("Target", bound=Callable[..., Any])


@dataclass(frozen=True)
class Requirements:
    """Inputs that an objective must be given in every step. They decide views and stores.

    Attributes:
        views: number of large views of each image.
        crops: the recipe's small crops too, if it has any.
        projected: the student's embeddings in the teacher's space. If False, the projector is not
            trained.
        embeddings: the teacher's embeddings of the same views.
        anchors: text embeddings of the classes.
        labels: the class of each image.
        clusters: k-means of the teacher's embeddings, and the cluster of each image. The
            objective's settings say how many: `clusters`.
        all_teachers: embeddings and anchors of all teachers, not of the first one alone.
    """

    views: int = 1
    crops: bool = False
    projected: bool = False
    embeddings: bool = False
    anchors: bool = False
    labels: bool = False
    clusters: bool = False
    all_teachers: bool = False

    def __or__(self, other: "Requirements") -> "Requirements":
        """Return what two objectives require together."""
        names = [field.name for field in fields(self)]
        return Requirements(
            **{name: max(getattr(self, name), getattr(other, name)) for name in names}
        )


class ObjectiveSettings(Strict):
    """Base class of an objective's settings, which users write as `objective.NAME.SETTING`."""

    objective: ClassVar[str] = ""


@dataclass(frozen=True)
class Declaration:
    """The declaration of an objective, read without importing it.

    Attributes:
        name: the short name, under which its settings, weight and metrics appear.
        settings: class of its settings.
        requires: what it must be given in every step.
        target: name of the function or class in its file.
        module: the module that holds it, for an import; None for a user's file.
        path: the user's file; None for modules.
    """

    name: str
    settings: type[ObjectiveSettings]
    requires: Requirements
    target: str
    module: str | None = None
    path: str | None = None


@dataclass(frozen=True)
class Registration:
    """The mark that `register_objective` attaches to a function or class."""

    name: str
    requires: Requirements


def register_objective(
    name: str | None = None,
    *,
    requires: Requirements,
    settings: type[ObjectiveSettings] | None = None,
) -> Callable[[Target], Target]:
    """Declare that a function or a class is an objective.

    A function takes `LossInputs` and returns named scalars, of which "loss" is minimized. Its
    keyword-only parameters are its settings:

        @register_objective(requires=Requirements(projected=True, embeddings=True))
        def my_loss(inputs, *, margin: float = 0.2):
            ...
            return {"loss": loss}

    A class is an `Objective`, for losses with weights or memory of their own.

    Args:
        name: short name; default the name of the function or class.
        requires: what it must be given in every step, written out as `Requirements(…)`.
        settings: pydantic class of its settings, for objectives in this package; default the
            keyword-only parameters.
    """

    def attach(target: Target) -> Target:
        registration = Registration(name or target.__name__, requires)
        target.__beamclip_objective__ = registration  # type: ignore[attr-defined]
        return target

    return attach


@cache
def built_in_objectives() -> Mapping[str, Declaration]:
    """Return the declarations of all objectives in `beamclip/objectives/`, by name."""
    found: dict[str, Declaration] = {}
    for file in sorted(_FOLDER.glob("[!_]*.py")):
        for declaration in _built_in_module(file.stem)[0]:
            found[declaration.name] = declaration
    return types.MappingProxyType(found)


def find_objective(part: str, code: Mapping[str, str]) -> Declaration:
    """Return the declaration of one objective.

    Args:
        part: a built-in name, an entry point's name, or FILE.py:NAME.
        code: text of users' files by their path, for processes that can't read them.

    Raises:
        ValueError: it does not exist, or its declaration can't be read. The message is a sentence.
    """
    if _FILE in part:
        path, _, target = part.rpartition(":")
        return _select(_read_source(source_of(path, code), path), target, path)
    built_in = built_in_objectives()
    if part in built_in:
        return built_in[part]
    entry_points = {point.name: point for point in metadata.entry_points(group=ENTRY_POINTS)}
    if part in entry_points:
        point = entry_points[part]
        declarations = _read_source(_module_source(point.module), point.module)
        found = _select(declarations, point.attr, point.module)
        return Declaration(part, found.settings, found.requires, found.target, point.module)
    known = [*built_in, *entry_points]
    raise ValueError(f"objective {part or repr(part)} does not exist{nearest(part, known)}")


def own_files(name: str) -> list[str]:
    """Return the paths of users' files in an objective's name: `csm+./a.py:f` -> [`./a.py`]."""
    parts = name.split("+")
    return [part.rpartition(":")[0] for part in parts if _FILE in part]


def source_of(path: str, code: Mapping[str, str]) -> str:
    """Return the text of a user's file, from `code` if it is there.

    Raises:
        ValueError: the file can't be read.
    """
    if path in code:
        return code[path]
    try:
        return Path(path).expanduser().read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not UTF-8 text"
        raise ValueError(f"the objective's file {path} can't be read: {reason}") from None


def _select(declarations: Iterable[Declaration], target: str, where: str) -> Declaration:
    """Return the declaration named `target`, as a function or by its short name."""
    declarations = list(declarations)
    for declaration in declarations:
        if target in (declaration.name, declaration.target):
            return declaration
    names = [declaration.target for declaration in declarations]
    if not names:
        raise ValueError(
            f"{where} declares no objective; put @beamclip.register_objective(requires=…) above "
            f"{target}"
        )
    raise ValueError(f"{where} declares no objective {target}{nearest(target, names)}")


@lru_cache(maxsize=64)
def _read_source(source: str, path: str) -> tuple[Declaration, ...]:
    """Return the declarations in a file of the user or of another package. Executes nothing.

    Raises:
        ValueError: the file is not Python, or a declaration uses more than literals and simple
            types.
    """
    try:
        tree = ast.parse(source, path)
    except SyntaxError as error:
        raise ValueError(f"{path} is not valid Python: {error.msg} (line {error.lineno})") from None
    module = None if path.endswith(".py") else path
    found = []
    for node in tree.body:
        call = _registration(node)
        if call is None:
            continue
        assert isinstance(node, ast.FunctionDef | ast.ClassDef)
        try:
            name, requires, _ = _arguments(call)
            settings = _settings_of_signature(node, name or node.name)
        except ValueError as error:
            raise ValueError(f"{path}, line {node.lineno}, {node.name}: {error}") from None
        file = path if module is None else None
        found.append(Declaration(name or node.name, settings, requires, node.name, module, file))
    return tuple(found)


@cache
def _built_in_module(stem: str) -> tuple[list[Declaration], dict[str, Any]]:
    """Return the declarations of a built-in file, and its settings classes by name.

    Only the settings classes and the imports of `_IMPORTS` are executed.
    """
    module = f"beamclip.objectives.{stem}"
    file = _FOLDER / f"{stem}.py"
    tree = ast.parse(file.read_text(encoding="utf-8"), str(file))
    namespace: dict[str, Any] = {"__name__": module}
    declarations = []
    for node in tree.body:
        if isinstance(node, ast.ImportFrom) and node.module:
            package, _, sibling = node.module.rpartition(".")
            if node.module in _IMPORTS:
                _execute(node, namespace)
            elif package == "beamclip.objectives":
                classes = _built_in_module(sibling)[1]
                imported = {alias.name for alias in node.names}
                namespace |= {name: classes[name] for name in imported & classes.keys()}
        elif isinstance(node, ast.ClassDef) and _is_settings(node, namespace):
            _execute(node, namespace)
            _describe_fields(node, namespace[node.name])
            _make_picklable(namespace[node.name])
        call = _registration(node)
        if call is not None:
            assert isinstance(node, ast.FunctionDef | ast.ClassDef)
            name, requires, class_name = _arguments(call)
            name = name or node.name
            settings = namespace[class_name] if class_name else _settings_of_signature(node, name)
            declarations.append(Declaration(name, settings, requires, node.name, module))
    classes = {
        name: value
        for name, value in namespace.items()
        if isinstance(value, type) and issubclass(value, ObjectiveSettings)
    }
    return declarations, classes


def _execute(node: ast.stmt, namespace: dict[str, Any]) -> None:
    code = compile(ast.Module(body=[node], type_ignores=[]), namespace["__name__"], "exec")
    exec(code, namespace)  # a part of this package's own source


def _is_settings(node: ast.ClassDef, namespace: Mapping[str, Any]) -> bool:
    bases = [namespace.get(base.id) for base in node.bases if isinstance(base, ast.Name)]
    return any(isinstance(base, type) and issubclass(base, ObjectiveSettings) for base in bases)


def _describe_fields(node: ast.ClassDef, settings: type[ObjectiveSettings]) -> None:
    """Copy the texts below the fields to the fields, as pydantic does for imported classes."""
    for field, text in zip(node.body, node.body[1:], strict=False):
        if not isinstance(field, ast.AnnAssign) or not isinstance(field.target, ast.Name):
            continue
        if isinstance(text, ast.Expr) and isinstance(text.value, ast.Constant):
            settings.model_fields[field.target.id].description = str(text.value.value)


def _make_picklable(settings: type[ObjectiveSettings]) -> None:
    """Make pickle find a settings class here, and not in its module, which imports torch."""
    settings.__module__ = __name__
    settings.__qualname__ = settings.__name__
    globals()[settings.__name__] = settings


def _registration(node: ast.stmt) -> ast.Call | None:
    """Return the call of `register_objective` that decorates a function or class."""
    if not isinstance(node, ast.FunctionDef | ast.ClassDef):
        return None
    for decorator in node.decorator_list:
        if not isinstance(decorator, ast.Call):
            continue
        function = decorator.func
        name = function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")
        if name == _DECORATOR:
            return decorator
    return None


def _arguments(call: ast.Call) -> tuple[str | None, Requirements, str | None]:
    """Return the arguments of `register_objective`: name, requirements, name of the settings class.

    Raises:
        ValueError: they are not literals.
    """
    name = _literal(call.args[0]) if call.args else None
    requires: Requirements | None = None
    settings: str | None = None
    for keyword in call.keywords:
        if keyword.arg == "name":
            name = _literal(keyword.value)
        elif keyword.arg == "settings" and isinstance(keyword.value, ast.Name):
            settings = keyword.value.id
        elif keyword.arg == "requires" and isinstance(keyword.value, ast.Call):
            values = {str(item.arg): _literal(item.value) for item in keyword.value.keywords}
            names = [field.name for field in fields(Requirements)]
            for key in values:
                if key not in names:
                    raise ValueError(f"Requirements has no {key}{nearest(key, names)}")
            requires = Requirements(**values)
    if requires is None:
        raise ValueError(
            f"{_DECORATOR} needs requires=Requirements(…), written out, such as "
            "Requirements(projected=True, embeddings=True)"
        )
    if name is not None and not str(name).isidentifier():
        raise ValueError(f"the name {name!r} is not a Python name")
    return name, requires, settings


def _settings_of_signature(
    node: ast.FunctionDef | ast.ClassDef, name: str
) -> type[ObjectiveSettings]:
    """Return a settings class made of the keyword-only parameters of a function or of `__init__`.

    Raises:
        ValueError: a parameter has no default, or more than a literal and a simple type.
    """
    signature = node.args if isinstance(node, ast.FunctionDef) else _init_of(node)
    settings: dict[str, Any] = {}
    if signature is not None:
        pairs = zip(signature.kwonlyargs, signature.kw_defaults, strict=True)
        for parameter, default in pairs:
            if default is None:
                raise ValueError(f"the setting {parameter.arg} needs a default")
            value = _literal(default)
            annotation = parameter.annotation
            kind = type(value) if annotation is None else _type(annotation, parameter.arg)
            settings[parameter.arg] = (kind, value)
    text = (ast.get_docstring(node) or "").partition("\n")[0] or f"Settings of {name}."
    model: type[ObjectiveSettings] = create_model(
        f"{name}_settings", __base__=ObjectiveSettings, __doc__=text, **settings
    )
    return model


def _init_of(node: ast.ClassDef) -> ast.arguments | None:
    for statement in node.body:
        if isinstance(statement, ast.FunctionDef) and statement.name == "__init__":
            return statement.args
    return None


def _literal(node: ast.expr) -> Any:
    try:
        return ast.literal_eval(node)
    except (ValueError, TypeError):
        raise ValueError(
            f"{ast.unparse(node)} is no literal; write a number, a text, True, False or None"
        ) from None


def _type(node: ast.expr, name: str) -> Any:
    """Return the type that an annotation names, of the few that a setting may have."""
    if isinstance(node, ast.Constant) and node.value is None:
        return None
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.BitOr):
        return _type(node.left, name) | _type(node.right, name)
    if isinstance(node, ast.Subscript) and ast.unparse(node.value) in ("Literal", "typing.Literal"):
        options = _literal(node.slice)
        return Literal[options]
    last = ast.unparse(node).rpartition(".")[2]
    if last not in _TYPES:
        raise ValueError(
            f"the setting {name} is a {ast.unparse(node)}; use {', '.join(_TYPES)}, "
            "Literal[…], or one of them | None"
        )
    return _TYPES[last]


def _module_source(module: str) -> str:
    """Return the source of an installed module, without importing it or its package.

    Raises:
        ValueError: it is not installed as Python source.
    """
    top, *rest = module.split(".")
    spec = find_spec(top)
    candidates: list[Path] = []
    if spec is not None and rest and spec.submodule_search_locations:
        for folder in spec.submodule_search_locations:
            path = Path(folder).joinpath(*rest)
            candidates += [path.with_suffix(".py"), path / "__init__.py"]
    elif spec is not None and spec.origin:
        candidates.append(Path(spec.origin))
    for candidate in candidates:
        if candidate.is_file():
            return candidate.read_text(encoding="utf-8")
    raise ValueError(f"the objective's module {module} is not installed as Python source")
