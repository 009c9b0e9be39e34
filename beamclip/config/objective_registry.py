"""Find objectives and read their declarations: name, settings, requirements. Imports no torch.

An objective is one Python file with its settings, its requirements and its loss. The file imports
torch, which the driver of a sweep must not do. So declarations are read from the *source* of the
file, and the file is imported only where a loss is computed.

An objective is one of these:

- built-in: a file in `beamclip/objectives/` that uses `@register_objective`. Its settings are a
  pydantic class, `@register_objective("simclr", settings=SimclrSettings, requires=…)`. Only the
  settings classes in the source are executed.
- a file of the user: `objective.name=./my_losses.py:my_loss`. Its settings are the keyword-only
  parameters of the function, or of `__init__` if it is a class. Nothing in the file is executed
  here.
- an entry point of an installed package, in the group `beamclip.objectives`, such as
  `my_loss = "my_package.losses:my_loss"`. Its settings are declared as in a user's file.
"""

import ast
import re
import types
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import cache, lru_cache
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import create_model

from beamclip.config.base import Count, Positive, Strict, field_texts
from beamclip.config.errors import nearest

ENTRY_POINTS = "beamclip.objectives"
"""Group of entry points by which other packages offer objectives."""

# Not by importlib.resources, which imports the package and thereby torch.
_FOLDER = Path(__file__).parents[1] / "objectives"
_FILE = ".py:"
"""Occurs in the name of an objective if it is in a user's file: FILE.py:NAME."""
_ENTRY_POINT = re.compile(r"\w+(\.\w+)*:\w+")
_DECORATOR = "register_objective"
_IMPORTS = (
    "typing",
    "pydantic",
    "beamclip.config.base",
    "beamclip.config.errors",
    "beamclip.config.objective_registry",
)
"""Modules that the settings classes of built-in objectives may use. They don't import torch."""
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
    """Inputs that an objective needs in every step. Views and stores are planned from them.

    Attributes:
        views: number of large views of each image.
        crops: also the recipe's small crops, if it has any.
        projected: the student's embeddings in the teacher's space. If False, the projector is not
            trained.
        embeddings: the teacher's embeddings of the same views.
        anchors: text embeddings of the classes.
        labels: the class of each image.
        clusters: the cluster of each image, by k-means of the teacher's embeddings. The objective's
            settings must have `clusters`, the number of clusters.
        all_teachers: embeddings and anchors of all teachers instead of only the first one.
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
        # max: the larger number of views, and True if one of the two is True.
        combined: dict[str, Any] = {}
        for field in fields(self):
            combined[field.name] = max(getattr(self, field.name), getattr(other, field.name))
        return Requirements(**combined)


class ObjectiveSettings(Strict):
    """Base class of an objective's settings, which users write as `objective.NAME.SETTING`."""


@dataclass(frozen=True)
class Declaration:
    """The declaration of an objective, read without importing it.

    Attributes:
        name: the short name. Its settings, weight and metrics have it in their names.
        settings: class of its settings.
        requires: the inputs it needs in every step.
        target: name of the function or class in its file.
        module: name of the module that contains it; None for a user's file.
        path: the user's file; None for a module.
    """

    name: str
    settings: type[ObjectiveSettings]
    requires: Requirements
    target: str
    module: str | None = None
    path: str | None = None


@dataclass(frozen=True)
class Registration:
    """What `register_objective` attaches to a function or class, for the code that imports it."""

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
        requires: the inputs it needs in every step. Must be written out as `Requirements(…)`, since
            it is read from the source.
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
    declarations: dict[str, Declaration] = {}
    for file in sorted(_FOLDER.glob("[!_]*.py")):
        for declaration in _read_built_in(file.stem).declarations:
            declarations[declaration.name] = declaration
    # Read-only, because all callers share the cached result.
    return types.MappingProxyType(declarations)


def find_objective(part: str, code: Mapping[str, str]) -> Declaration:
    """Return the declaration of one objective.

    Args:
        part: name of a built-in objective or an entry point, or FILE.py:NAME.
        code: text of the user's files by path, for processes that can't read them.

    Raises:
        ValueError: it does not exist, or its declaration can't be read. The message is a sentence.
    """
    built_in = built_in_objectives()
    if _FILE in part:
        path, _, target = part.rpartition(":")
        declaration = _select(_read_source(source_of(path, code), path), target, path)
        # Settings and logged terms are under the short name, so it must be unambiguous.
        if declaration.name in built_in:
            raise ValueError(
                f"{part} is called {declaration.name}, as a built-in objective is; "
                "give it another name"
            )
        return declaration
    if part in built_in:
        return built_in[part]
    entry_points = {point.name: point for point in metadata.entry_points(group=ENTRY_POINTS)}
    if part in entry_points:
        point = entry_points[part]
        if not _ENTRY_POINT.fullmatch(point.value):
            raise ValueError(
                f"the entry point {part} of {ENTRY_POINTS} is {point.value!r}; its package must "
                "write it as MODULE:NAME"
            )
        declarations = _read_source(_module_source(point.module), point.module)
        declaration = _select(declarations, point.attr, point.module)
        # Users know the objective by the name of the entry point.
        return replace(declaration, name=part)
    known = [*built_in, *entry_points]
    raise ValueError(f"objective {part or repr(part)} does not exist{nearest(part, known)}")


def own_files(name: str) -> list[str]:
    """Return the paths of the user's files in `objective.name`: `csm+./a.py:f` -> [`./a.py`]."""
    parts = name.split("+")
    return [part.rpartition(":")[0] for part in parts if _FILE in part]


def source_of(path: str, code: Mapping[str, str]) -> str:
    """Return the text of a user's file.

    Args:
        path: the file as `objective.name` names it.
        code: text of files by path. A file that is not in it is read.

    Raises:
        ValueError: the file can't be read.
    """
    if path in code:
        return code[path]
    try:
        return Path(path).expanduser().read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not UTF-8 text"
    # The path begins with the home of an unknown user.
    except RuntimeError as error:
        reason = str(error).rstrip(".")
    raise ValueError(f"the objective's file {path} can't be read: {reason}")


def _select(declarations: Sequence[Declaration], target: str, origin: str) -> Declaration:
    """Return the declaration of a function, a class or a short name.

    Args:
        declarations: all declarations of a file.
        target: name of the function or class, or the short name.
        origin: the file or module, for messages.

    Raises:
        ValueError: there is no such declaration.
    """
    for declaration in declarations:
        if target in (declaration.name, declaration.target):
            return declaration
    names = [declaration.target for declaration in declarations]
    if not names:
        raise ValueError(
            f"{origin} declares no objective; put @beamclip.register_objective(requires=…) above "
            f"{target}"
        )
    raise ValueError(f"{origin} declares no objective {target}{nearest(target, names)}")


# Cached, because every access to `ObjectiveConfig.declarations` looks its objectives up.
@lru_cache(maxsize=64)
def _read_source(source: str, origin: str) -> tuple[Declaration, ...]:
    """Return the declarations in a file of the user or of another package. Executes nothing.

    Args:
        source: text of the file.
        origin: path of the user's file, or name of the other package's module.

    Raises:
        ValueError: the file is not Python, or a declaration uses more than literals and simple
            types.
    """
    try:
        tree = ast.parse(source, origin)
    except SyntaxError as error:
        raise ValueError(
            f"{origin} is not valid Python: {error.msg} (line {error.lineno})"
        ) from None
    if origin.endswith(".py"):
        module, path = None, origin
    else:
        module, path = origin, None
    declarations = []
    for node in tree.body:
        call = _registration(node)
        if call is None:
            continue
        assert isinstance(node, ast.FunctionDef | ast.ClassDef)
        try:
            arguments = _arguments(call)
            name = arguments.name or node.name
            settings = _settings_of_signature(node, name)
            if arguments.requires.clusters:
                _check_clusters(settings)
        except ValueError as error:
            raise ValueError(f"{origin}, line {node.lineno}, {node.name}: {error}") from None
        declarations.append(
            Declaration(name, settings, arguments.requires, node.name, module, path)
        )
    return tuple(declarations)


@dataclass(frozen=True)
class _BuiltIn:
    """What a file in `beamclip/objectives/` declares.

    Attributes:
        declarations: its objectives.
        classes: its settings classes by name, with those it imports from other files.
    """

    declarations: tuple[Declaration, ...]
    classes: Mapping[str, type[ObjectiveSettings]]


# Cached, so that a settings class is one class in this process, in whichever file it is used.
@cache
def _read_built_in(stem: str) -> _BuiltIn:
    """Return what a file in `beamclip/objectives/` declares, by its name without `.py`.

    Only its settings classes and its imports from `_IMPORTS` are executed.
    """
    module = f"beamclip.objectives.{stem}"
    file = _FOLDER / f"{stem}.py"
    tree = ast.parse(file.read_text(encoding="utf-8"), str(file))
    namespace: dict[str, Any] = {"__name__": module}
    declarations = []
    for node in tree.body:
        # What the settings classes use: allowed modules, and settings classes of other objectives.
        if isinstance(node, ast.ImportFrom) and node.module:
            package, _, other_stem = node.module.rpartition(".")
            if node.module in _IMPORTS:
                _execute(node, namespace)
            elif package == "beamclip.objectives":
                other_classes = _read_built_in(other_stem).classes
                for alias in node.names:
                    if alias.name in other_classes:
                        namespace[alias.name] = other_classes[alias.name]
        elif isinstance(node, ast.ClassDef) and _is_settings(node, namespace):
            _execute(node, namespace)
            # inspect can't find the source of a class that was made here.
            for field, text in field_texts(node).items():
                namespace[node.name].model_fields[field].description = text
            _make_picklable(namespace[node.name])
        # The objectives themselves.
        call = _registration(node)
        if call is not None:
            assert isinstance(node, ast.FunctionDef | ast.ClassDef)
            arguments = _arguments(call)
            name = arguments.name or node.name
            if arguments.settings is None:
                settings = _settings_of_signature(node, name)
            else:
                settings = namespace[arguments.settings]
            declarations.append(Declaration(name, settings, arguments.requires, node.name, module))
    classes = {
        name: value
        for name, value in namespace.items()
        if isinstance(value, type) and issubclass(value, ObjectiveSettings)
    }
    return _BuiltIn(tuple(declarations), classes)


def _execute(node: ast.stmt, namespace: dict[str, Any]) -> None:
    """Execute one statement of this package's own source."""
    code = compile(ast.Module(body=[node], type_ignores=[]), namespace["__name__"], "exec")
    exec(code, namespace)


def _is_settings(node: ast.ClassDef, namespace: Mapping[str, Any]) -> bool:
    """Return True if a class inherits from `ObjectiveSettings`."""
    bases = [namespace.get(base.id) for base in node.bases if isinstance(base, ast.Name)]
    return any(isinstance(base, type) and issubclass(base, ObjectiveSettings) for base in bases)


def _make_picklable(settings: type[ObjectiveSettings]) -> None:
    """Let pickle find a settings class in this module. The class's own module imports torch."""
    settings.__module__ = __name__
    settings.__qualname__ = settings.__name__
    globals()[settings.__name__] = settings


def _registration(node: ast.stmt) -> ast.Call | None:
    """Return the call of `register_objective` that decorates a function or class, or None."""
    if not isinstance(node, ast.FunctionDef | ast.ClassDef):
        return None
    for decorator in node.decorator_list:
        if not isinstance(decorator, ast.Call):
            continue
        # `@register_objective(…)` or `@beamclip.register_objective(…)`.
        function = decorator.func
        name = function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")
        if name == _DECORATOR:
            return decorator
    return None


@dataclass(frozen=True)
class _Arguments:
    """Arguments of a call of `register_objective`.

    Attributes:
        name: the short name, if given.
        requires: the requirements.
        settings: name of the settings class, if given.
    """

    name: str | None
    requires: Requirements
    settings: str | None


def _arguments(call: ast.Call) -> _Arguments:
    """Return the arguments of a call of `register_objective`.

    Raises:
        ValueError: they are not literals, or `requires` is missing.
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
            requires = _requirements(keyword.value)
    if requires is None:
        raise ValueError(
            f"{_DECORATOR} needs requires=Requirements(…), written out as in "
            "requires=Requirements(projected=True, embeddings=True)"
        )
    if name is not None and not str(name).isidentifier():
        raise ValueError(f"the name {name!r} is not a Python name")
    return _Arguments(name, requires, settings)


def _requirements(call: ast.Call) -> Requirements:
    if ast.unparse(call.func).rpartition(".")[2] != "Requirements" or call.args:
        raise ValueError(
            f"requires is {ast.unparse(call)}; write Requirements(…) with the name of each argument"
        )
    names = [field.name for field in fields(Requirements)]
    values: dict[str, Any] = {}
    for keyword in call.keywords:
        key = str(keyword.arg)
        if key not in names:
            raise ValueError(f"Requirements has no {key}{nearest(key, names)}")
        value = _literal(keyword.value)
        is_valid = type(value) is int and value > 0 if key == "views" else isinstance(value, bool)
        if not is_valid:
            expected = "1 or more" if key == "views" else "True or False"
            raise ValueError(f"Requirements has {key}={value!r}; write {expected}")
        values[key] = value
    return Requirements(**values)


def _settings_of_signature(
    node: ast.FunctionDef | ast.ClassDef, name: str
) -> type[ObjectiveSettings]:
    """Return a settings class with the keyword-only parameters of a function or of `__init__`.

    Args:
        node: the function, or the class with the `__init__`.
        name: short name of the objective.

    Raises:
        ValueError: a parameter has no default, a default is not a literal, or a type is not one
            that settings may have.
    """
    signature = node.args if isinstance(node, ast.FunctionDef) else _init_of(node)
    settings: dict[str, Any] = {}
    if signature is not None:
        if signature.defaults:
            first = [*signature.posonlyargs, *signature.args][-len(signature.defaults)]
            raise ValueError(
                f"{first.arg} has a default but is not a setting; write *, before it to make it one"
            )
        pairs = zip(signature.kwonlyargs, signature.kw_defaults, strict=True)
        for parameter, default in pairs:
            if default is None:
                raise ValueError(f"the setting {parameter.arg} needs a default")
            value = _literal(default)
            annotation = parameter.annotation
            kind = type(value) if annotation is None else _type(annotation, parameter.arg)
            settings[parameter.arg] = (kind, value)
    docstring = ast.get_docstring(node) or f"Settings of {name}."
    text = docstring.partition("\n")[0]
    model: type[ObjectiveSettings] = create_model(
        f"{name}_settings", __base__=ObjectiveSettings, __doc__=text, **settings
    )
    return model


def _check_clusters(settings: type[ObjectiveSettings]) -> None:
    """Raise ValueError if settings do not say how many clusters to make."""
    field = settings.model_fields.get("clusters")
    if field is None or field.annotation is not int or field.default < 1:
        raise ValueError(
            "it requires clusters, so it needs their number as a setting: clusters: int = 100"
        )


def _init_of(node: ast.ClassDef) -> ast.arguments | None:
    for statement in node.body:
        if isinstance(statement, ast.FunctionDef) and statement.name == "__init__":
            return statement.args
    return None


def _literal(node: ast.expr) -> Any:
    """Return the value of a literal, or raise ValueError."""
    try:
        return ast.literal_eval(node)
    except (ValueError, TypeError):
        raise ValueError(
            f"{ast.unparse(node)} is not a literal; write a number, a text, True, False or None"
        ) from None


def _type(node: ast.expr, name: str) -> Any:
    """Return the type that an annotation names.

    Args:
        node: the annotation: a type of `_TYPES`, `Literal[…]`, or a union of these.
        name: the setting, for messages.

    Raises:
        ValueError: settings can't have this type.
    """
    if isinstance(node, ast.Constant) and node.value is None:
        return None
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.BitOr):
        return _type(node.left, name) | _type(node.right, name)
    if isinstance(node, ast.Subscript) and ast.unparse(node.value) in ("Literal", "typing.Literal"):
        options = _literal(node.slice)
        return Literal[options]
    # `Count`, or `base.Count` by the name of its module.
    type_name = ast.unparse(node).rpartition(".")[2]
    if type_name not in _TYPES:
        raise ValueError(
            f"the setting {name} is a {ast.unparse(node)}; use {', '.join(_TYPES)}, "
            "Literal[…], or one of these | None"
        )
    return _TYPES[type_name]


def _module_source(module: str) -> str:
    """Return the source of an installed module, without importing it or its package.

    Raises:
        ValueError: it is not installed as Python source.
    """
    top, *rest = module.split(".")
    # `find_spec` of a submodule would import its parent package, so only ask for the top package.
    spec = find_spec(top)
    candidates: list[Path] = []
    if spec is not None and rest and spec.submodule_search_locations:
        for folder in spec.submodule_search_locations:
            path = Path(folder).joinpath(*rest)
            candidates += [path.with_suffix(".py"), path / "__init__.py"]
    elif spec is not None and spec.origin:
        candidates.append(Path(spec.origin))
    for candidate in candidates:
        if candidate.is_file() and candidate.suffix == ".py":
            return candidate.read_text(encoding="utf-8")
    raise ValueError(f"the objective's module {module} is not installed as Python source")
