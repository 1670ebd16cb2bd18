"""What executes its input is not called: the part of it that ruff has no rule for, looked for in the syntax."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ROOMS = ("metasr", "cluster", "jobs", "infra")
# Arguments that must be what they say, with nothing to compute.
SAFE = {"allow_pickle": False, "weights_only": True}


def findings(source):
    """Return what is wrong with a piece of Python, with its lines."""
    nodes = list(ast.walk(ast.parse(source)))
    return [f"{ast.unparse(node)}: {wrong}" for node in nodes for rule in RULES if (wrong := rule(node))]


def argument(node):
    if isinstance(node, ast.keyword) and node.arg in SAFE:
        value = node.value.value if isinstance(node.value, ast.Constant) else None
        return "" if value is SAFE[node.arg] else f"{node.arg} must be {SAFE[node.arg]}"
    return ""


def command(node):
    is_text = isinstance(node, ast.Constant) and isinstance(node.value, str)
    return "WebDataset executes such a URL" if is_text and node.value.startswith("pipe:") else ""


def reader(node):
    """Refuse all of webdataset but its writer, under its own name: its readers execute pickles and commands."""
    names = set()
    if isinstance(node, ast.ImportFrom) and _is_webdataset(node.module):
        names = {alias.name for alias in node.names}
    elif isinstance(node, ast.Import):
        renamed = [alias for alias in node.names if _is_webdataset(alias.name)]
        names = {alias.asname or alias.name for alias in renamed} - {"webdataset"}
    elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "webdataset":
        names = {node.attr}
    return "of webdataset only TarWriter is safe" if names - {"TarWriter"} else ""


def _is_webdataset(module):
    return (module or "").partition(".")[0] == "webdataset"


def downloader(node):
    """Refuse weights that torchvision loads by itself: it unpickles what it downloads."""
    if not isinstance(node, ast.Call):
        return ""
    name = getattr(node.func, "attr", getattr(node.func, "id", ""))
    builds = name == "get_model" or name.startswith("vgg")
    weights = [ast.unparse(keyword.value) for keyword in node.keywords if keyword.arg == "weights"]
    loads = name in ("get_state_dict", "load_state_dict_from_url") or (builds and weights not in ([], ["None"]))
    return "torchvision unpickles what it downloads" if loads else ""


RULES = (argument, command, reader, downloader)


def test_nothing_in_the_rooms_executes_its_input():
    files = [path for room in ROOMS for path in sorted((ROOT / room).rglob("*.py"))]
    assert len(files) > 50
    found = {str(path.relative_to(ROOT)): findings(path.read_text()) for path in files}
    assert {path: lines for path, lines in found.items() if lines} == {}


@pytest.mark.parametrize(
    "source",
    [
        "np.save(file, array, allow_pickle=True)",
        "f(allow_pickle=pickles)",
        "read(file, weights_only=False)",
        "url = 'pipe:cat x.tar'",
        "url = f'pipe:cat {name}'",
        "import webdataset\nwebdataset.WebDataset(url).decode()",
        "import webdataset as wds",
        "from webdataset import TarWriter, WebDataset",
        "from webdataset.autodecode import Decoder",
        "import webdataset.gopen",
        "models.vgg19(weights=models.VGG19_Weights.DEFAULT)",
        "get_model(name, weights='DEFAULT')",
        "VGG19_Weights.DEFAULT.get_state_dict()",
        "torch.hub.load_state_dict_from_url(url)",
    ],
)
def test_each_of_them_would_be_found(source):
    assert findings(source)


@pytest.mark.parametrize(
    "source",
    [
        "np.save(file, array, allow_pickle=False)",
        "content.decode()",
        "self.decode(features, size)",
        '"""A docstring about\n pipe: URLs."""',
        "import webdataset\nwith webdataset.TarWriter(buffer) as tar: pass",
        "models.vgg19(weights=None)",
        "np.average(values, weights=counts)",
    ],
)
def test_what_looks_alike_is_allowed(source):
    assert findings(source) == []
