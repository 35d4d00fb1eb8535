"""Every import against the table of rooms: data flows one way, and there is no circle."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

# Of each room, the rooms it may import beside itself; a module that is not named belongs to the
# room of its folder. CONTRIBUTING.md says what each is for.
GROUND = (
    *("clip_text.errors", "clip_text.packed", "clip_text.precision", "clip_text.allocator"),
    *("clip_text.losses", "clip_text.progress", "clip_text.lengths", "clip_text.vectors"),
    "clip_text.names",
)
TOKENS = (*GROUND, "clip_text.storage", "clip_text.tokenizer")
PICTURES = (*TOKENS, "clip_text.images", "clip_text.features")
DATA = (*PICTURES, "clip_text.data", "clip_text.data.tags")
HEADS = (*TOKENS, "clip_text.towers", "clip_text.heads")
RUNTIMES = (*HEADS, "clip_text.images", "clip_text.features", "clip_text.runtimes")
ENCODER = (
    *(*HEADS, *DATA, "clip_text.checkpoints", "clip_text.runtimes", "clip_text.text_heads"),
    "clip_text.encoder",
)
LOADING = (*ENCODER, "clip_text.libraries", "clip_text.loading")
FLOOR = (
    *("retrieval.errors", "retrieval.protocols", "retrieval.records", "retrieval.features"),
    *("retrieval.pictures", "retrieval.precision", "retrieval.filters"),
)
INDEX = (*FLOOR, "retrieval.catalogue", "retrieval.index")

MAY_IMPORT = {
    # on first use
    "clip_text": (*GROUND, "clip_text.encoder", "clip_text.loading", "clip_text.plugin"),
    **dict.fromkeys(GROUND, ("clip_text.errors",)),
    "clip_text.storage": GROUND,
    "clip_text.tokenizer": (*GROUND, "clip_text.storage"),
    "clip_text.images": (*GROUND, "clip_text.storage", "clip_text_pictures"),
    "clip_text.features": (*GROUND, "clip_text.storage", "clip_text.images"),
    "clip_text.data": (*PICTURES, "clip_text.data.tags"),
    "clip_text.towers": TOKENS,
    "clip_text.heads": (*TOKENS, "clip_text.towers", "clip_text.data.tags"),
    "clip_text.data.tags": GROUND,
    "clip_text.checkpoints": (*HEADS, "clip_text.images"),
    "clip_text.runtimes": RUNTIMES,
    **dict.fromkeys(
        ("clip_text.text_heads", "clip_text.encoder"),
        (*HEADS, *DATA, "clip_text.checkpoints", "clip_text.runtimes", "clip_text.text_heads"),
    ),
    "clip_text.libraries": PICTURES,
    "clip_text.loading": LOADING,
    "clip_text.plugin": ENCODER,
    "clip_text.conversion": ENCODER,
    "clip_text.model_info": LOADING,
    "clip_text.exporting": (*LOADING, "clip_text.conversion", "clip_text.model_info"),
    "clip_text.embedding": (*DATA, "clip_text.runtimes"),  # of these, how many cores there are
    "clip_text.evaluation": DATA,
    "clip_text.evaluation.adapters": (*ENCODER, "clip_text.evaluation"),
    "clip_text.training": (*ENCODER, "clip_text.evaluation"),
    "retrieval": (),
    **dict.fromkeys(FLOOR, (*FLOOR, "clip_text_pictures")),
    "retrieval.catalogue": FLOOR,
    "retrieval.index": (*FLOOR, "retrieval.catalogue"),
    "retrieval.stores": INDEX,
    "retrieval.ingest": (*INDEX, "retrieval.stores", "clip_text_pictures"),
    "retrieval.search": (*INDEX, "retrieval.stores"),
    "retrieval.overview": (*INDEX, "retrieval.stores", "clip_text_pictures"),
    "retrieval.sheet": (*FLOOR, "retrieval.search"),
    "retrieval.service": (
        *(*INDEX, "retrieval.stores", "retrieval.search", "retrieval.ingest"),
        "clip_text_pictures",
    ),
    "clip_text_pictures": (),
    "clip_text_cli": None,  # anything: it brings them together
}


def room_of(module):
    """Find the most particular room a module belongs to."""
    parts = module.split(".")
    for length in range(len(parts), 0, -1):
        name = ".".join(parts[:length])
        if name in MAY_IMPORT and (name not in ("clip_text", "retrieval") or length == len(parts)):
            return name
    return None


def module_of(file):
    parts = list(file.relative_to(ROOT).with_suffix("").parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {
    module_of(file): file
    for package in ("clip_text", "clip_text_cli", "clip_text_pictures", "retrieval")
    for file in (ROOT / package).rglob("*.py")
}


def is_for_types(node, parents):
    """Say whether an import is only there for the type checker."""
    while node in parents:
        node = parents[node]
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            return True
    return False


def imports_of(file, *, of_types=True):
    """Name the modules of ours that a file imports, wherever in it."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    parents = {child: node for node in ast.walk(tree) for child in ast.iter_child_nodes(node)}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: imports are written in full"
            found = [node.module] if node.module not in MODULES else []
            found += [
                name if (name := f"{node.module}.{each.name}") in MODULES else node.module
                for each in node.names
            ]
        elif isinstance(node, ast.Import):
            found = [each.name for each in node.names]
        else:
            continue
        if of_types or not is_for_types(node, parents):
            yield from (name for name in dict.fromkeys(found) if name in MODULES)


def test_every_module_has_a_room():
    assert [module for module in MODULES if room_of(module) is None] == [
        "clip_text.__main__",  # says where to go, and imports nothing
    ]


@pytest.mark.parametrize("module", [name for name in MODULES if room_of(name)])
def test_a_room_imports_only_what_it_may(module):
    room = room_of(module)
    allowed = MAY_IMPORT[room]
    if allowed is None:
        return
    wrong = [name for name in imports_of(MODULES[module]) if room_of(name) not in (room, *allowed)]
    assert not wrong, f"{room} may not import {wrong}"


def test_no_import_leads_round_in_a_circle():
    graph = {
        module: sorted(set(imports_of(file, of_types=False)) - {module})
        for module, file in MODULES.items()
    }
    # a package is there before its modules: what its __init__ gathers makes no circle of them
    for module, targets in graph.items():
        graph[module] = [name for name in targets if not module.startswith(f"{name}.")]
    done, way = set(), []

    def visit(module):
        assert module not in way, " -> ".join([*way[way.index(module) :], module])
        if module not in done:
            way.append(module)
            for name in graph[module]:
                visit(name)
            way.pop()
            done.add(module)

    for module in graph:
        visit(module)
