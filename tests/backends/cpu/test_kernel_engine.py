"""Object code: made once, kept on disk, trusted only when it is this user's own and unchanged."""

import json
import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from benchmarks.kernel_parity import compare, make_call
from benchmarks.parity import TOLERANCES, Sizes
from test_expressive_cells import CELLS

import gatewright as gw
from gatewright.backends.cpu import engine, launch

TEXT = """
define void @run(ptr %arguments, i64 %thread) {{
  store i64 {number}, ptr %arguments
  ret void
}}
define void @enter(ptr %arguments) {{
  ret void
}}
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """An empty folder for object code, and nothing in memory."""
    path = tmp_path / "kernels"
    monkeypatch.setenv("GATEWRIGHT_CACHE", str(path))
    return path


@pytest.fixture
def compiled(monkeypatch):
    """The texts that are compiled."""
    texts = []
    compile_text = engine.compile_text
    monkeypatch.setattr(engine, "compile_text", lambda text: texts.append(text) or compile_text(text))
    return texts


def loaded(number=7):
    """A kernel that writes a number, as a process that has loaded nothing so far gets it."""
    import ctypes

    library = engine.library(f"a test's {number}", lambda: TEXT.format(number=number))
    word = ctypes.c_int64(0)
    library.run(ctypes.addressof(word), 0)
    return word.value


# -------------------------------------------------------------------- on disk


def test_object_code_is_made_once_and_then_read(folder, compiled):
    assert [loaded(), loaded()] == [7, 7]
    assert len(compiled) == 1
    (file,) = folder.iterdir()
    assert file.suffix == ".o"
    if os.name == "posix":
        assert file.stat().st_mode & 0o777 == 0o600
        assert folder.stat().st_mode & 0o777 == 0o700


def test_what_the_text_says_is_what_is_run(folder, compiled):
    assert [loaded(1), loaded(2), loaded(1)] == [1, 2, 1]
    assert len(compiled) == len(list(folder.iterdir())) == 2


def test_a_text_that_is_on_the_disk_is_not_made_again(folder, compiled):
    engine.library("a text", lambda: TEXT.format(number=3))
    assert "a text" not in engine._loaded
    library = engine.library("a text", lambda: pytest.fail("made again"))
    assert library.enter_address
    assert len(compiled) == 1


def test_code_does_not_outlive_a_change_of_what_writes_it(folder, compiled, monkeypatch):
    assert loaded() == 7
    monkeypatch.setattr(engine, "_writers", lambda: "other source")
    assert loaded() == 7
    assert len(compiled) == len(list(folder.iterdir())) == 2
    monkeypatch.setattr(engine, "_writers", lambda: None)
    assert loaded() == 7
    assert len(compiled) == 3
    assert len(list(folder.iterdir())) == 2


def test_the_sum_of_the_source_follows_every_module_that_writes(monkeypatch):
    """Of the modules that are loaded for a text, none may be missing in it."""
    read = []
    monkeypatch.setattr(Path, "read_bytes", lambda path: read.append(path.stem) or b"")
    engine._writers.__wrapped__()
    assert {
        "forward",
        "backward",
        "kernel",
        "products",
        "functions",
        "simd",
        "schedule",
        "derive",
        "lower",
    } <= set(read)


def test_object_code_is_loaded_once_for_all_who_use_it(folder):
    one = engine.library("a test", lambda: TEXT.format(number=1))
    assert engine.library("a test", lambda: "not made again") is one


def damage_nothing_left(file):
    file.write_bytes(b"")


def damage_cut_short(file):
    file.write_bytes(file.read_bytes()[:-1])


def damage_head_only(file):
    file.write_bytes(file.read_bytes()[:40])


def damage_one_bit(file):
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def damage_longer(file):
    file.write_bytes(file.read_bytes() + b"\0")


def damage_other_code(file):
    """What was compiled from another text, whole, under this name."""
    assert loaded(8) == 8
    other = next(path for path in file.parent.iterdir() if path != file)
    file.write_bytes(other.read_bytes())
    other.unlink()


def damage_writable_by_all(file):
    file.chmod(0o666)


def damage_writable_by_the_group(file):
    file.chmod(0o660)


def damage_not_readable(file):
    file.chmod(0)


def damage_a_folder_of_its_name(file):
    file.unlink()
    file.mkdir()


DAMAGES = [value for name, value in list(globals().items()) if name.startswith("damage_")]


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__[7:])
def test_a_file_that_is_not_as_it_was_written_is_made_again(folder, compiled, damage):
    assert loaded() == 7
    (file,) = folder.iterdir()
    damage(file)
    compiled.clear()
    assert loaded() == 7
    readable_by_root = damage is damage_not_readable and os.geteuid() == 0
    assert len(compiled) == (0 if readable_by_root else 1)
    # the new file is whole again, where there is no folder in its place
    compiled.clear()
    assert loaded() == 7
    assert len(compiled) == (1 if damage is damage_a_folder_of_its_name else 0)
    assert not list(folder.glob("*.part"))


@pytest.mark.skipif(os.name != "posix", reason="files have owners on POSIX only")
def test_a_file_of_another_user_is_not_trusted(folder, compiled, monkeypatch):
    assert loaded() == 7
    monkeypatch.setattr(os, "geteuid", lambda: 12345)
    assert loaded() == 7
    assert len(compiled) == 2


def a_file(path, monkeypatch):
    path.write_text("in the way")
    monkeypatch.setenv("GATEWRIGHT_CACHE", str(path))


def below_a_file(path, monkeypatch):
    path.write_text("in the way")
    monkeypatch.setenv("GATEWRIGHT_CACHE", str(path / "below"))


def not_writable(path, monkeypatch):
    path.mkdir()
    path.chmod(0o500)
    monkeypatch.setenv("GATEWRIGHT_CACHE", str(path))


def on_a_full_disk(path, monkeypatch):
    def full(*arguments, **options):
        raise OSError(28, "No space left on device")

    monkeypatch.setenv("GATEWRIGHT_CACHE", str(path))
    monkeypatch.setattr(os, "fdopen", full)


def without_a_home(path, monkeypatch):
    def homeless(cls):
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("GATEWRIGHT_CACHE")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(Path, "home", classmethod(homeless))


@pytest.mark.parametrize(
    "place", [a_file, below_a_file, not_writable, on_a_full_disk, without_a_home], ids=lambda p: p.__name__
)
def test_a_folder_that_cannot_be_written_is_no_error(place, tmp_path, folder, compiled, monkeypatch):
    place(tmp_path / "place", monkeypatch)
    assert [loaded(), loaded()] == [7, 7]
    # root may write where nobody may
    assert len(compiled) == (1 if place is not_writable and os.geteuid() == 0 else 2)


def test_the_folder_is_in_the_users_cache(tmp_path, monkeypatch):
    monkeypatch.delenv("GATEWRIGHT_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    loaded()
    assert len(list((tmp_path / "gatewright").iterdir())) == 1
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr(Path, "home", classmethod(lambda cls: tmp_path))
    loaded()
    assert len(list((tmp_path / ".cache" / "gatewright").iterdir())) == 1


# -------------------------------------------------------------------- processes

SCRIPT = """
import json, sys, torch
import gatewright as gw
from gatewright.backends.cpu import engine
texts, compile_text = [], engine.compile_text
engine.compile_text = lambda text: texts.append(text) or compile_text(text)
torch.set_num_threads(1)
torch.manual_seed(0)
layer, x = gw.LSTM(5, 9), torch.randn(6, 3, 5)
y, _ = layer(x)
y.sum().backward()
print(json.dumps([len(texts), y.sum().item(), layer.weight_hh_l0.grad.sum().item()]))
"""


def start(folder):
    environment = os.environ | {"GATEWRIGHT_CACHE": str(folder), "OMP_NUM_THREADS": "1"}
    command, pipe = [sys.executable, "-c", SCRIPT], subprocess.PIPE
    return subprocess.Popen(command, stdout=pipe, stderr=pipe, env=environment, text=True)


def end(process):
    output, error = process.communicate(timeout=120)
    assert process.returncode == 0, error
    return json.loads(output)


def test_processes_share_object_code_and_may_make_it_at_once(tmp_path):
    first, second = start(tmp_path), start(tmp_path)
    (_, *results), (_, *others) = end(first), end(second)
    third = end(start(tmp_path))
    assert third == [0, *results] == [0, *others]
    assert {path.suffix for path in tmp_path.iterdir()} == {".o"}
    assert len(list(tmp_path.iterdir())) == 2


# -------------------------------------------------------------------- failures


@pytest.mark.parametrize("text", ["not a module", TEXT.format(number=1) + "define void @x() {\n}"])
def test_a_text_that_llvm_refuses_is_named_as_such(folder, text):
    with pytest.raises(engine.CompilationError, match=r"LLVM [\d.]+ refused the code(.|\n)*hint: set layer"):
        engine.library("a test", lambda: text)
    assert not folder.exists()


def test_object_code_without_its_function_is_refused(folder):
    with pytest.raises(engine.CompilationError, match="has no function 'run'"):
        engine.library("a test", lambda: "define void @other() {\n  ret void\n}")


@pytest.fixture
def another_machine(monkeypatch):
    """Ask again what the machine is, and forget the answer afterwards."""

    def forget():
        for known in (engine.machine, engine.refusal, launch.forward, launch.backward):
            known.cache_clear()

    forget()
    yield
    monkeypatch.undo()
    forget()


def explained():
    return gw.explain(gw.GRU(3, 4), torch.randn(2, 1, 3))


@pytest.mark.parametrize("error", [ImportError("No module named 'llvmlite'"), OSError("libz.so.1: no file")])
def test_without_llvmlite_the_other_backends_run(another_machine, monkeypatch, error):
    def refuse(widest):
        raise error

    monkeypatch.setattr(engine, "_machine", refuse)
    reason = f"its kernels are compiled by llvmlite, which cannot be imported: {error}"
    assert explained().startswith("torch: cell gru")
    assert f"not cpu: {reason}" in explained()
    layer = gw.GRU(3, 4)
    y, _ = layer(torch.randn(2, 1, 3))
    y.sum().backward()
    layer.backend = "cpu"
    with pytest.raises(gw.InputError, match="which cannot be imported"):
        layer(torch.randn(2, 1, 3))


WITHOUT_LLVMLITE = """
import sys
import torch
sys.modules["llvmlite"] = sys.modules["llvmlite.binding"] = None
import gatewright
layer = gatewright.GRU(3, 4)
layer(torch.randn(2, 1, 3))
print(gatewright.explain(layer, torch.randn(2, 1, 3)))
"""


def test_the_package_is_imported_without_llvmlite():
    command = [sys.executable, "-c", WITHOUT_LLVMLITE]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
    assert "not cpu: its kernels are compiled by llvmlite, which cannot be imported" in done.stdout


def test_a_processor_without_fused_multiplication_is_refused(another_machine, monkeypatch):
    import llvmlite.binding as llvm

    monkeypatch.setattr(llvm, "get_host_cpu_features", lambda: llvm.FeatureMap({"sse2": True, "avx": True}))
    monkeypatch.setattr(platform, "machine", lambda: "x86_64")
    assert "not cpu: its kernels need a processor with FMA instructions" in explained()


# -------------------------------------------------------------------- narrower machines

WIDTHS = [width for width in (16, 32, 64) if width < engine.machine().vector_bytes]


def test_the_widest_vectors_may_be_said(another_machine, monkeypatch):
    monkeypatch.setenv("GATEWRIGHT_VECTOR_BYTES", "16")
    assert engine.machine().vector_bytes == 16
    assert "4 x float32" in explained()


def test_a_width_wider_than_the_machines_says_nothing(another_machine, monkeypatch):
    here = engine.machine()
    engine.machine.cache_clear()
    monkeypatch.setenv("GATEWRIGHT_VECTOR_BYTES", "64")
    assert engine.machine() == here


@pytest.mark.parametrize("text", ["wide", "8", "-16", "1.5"])
def test_a_width_that_is_none_is_refused(another_machine, monkeypatch, text):
    monkeypatch.setenv("GATEWRIGHT_VECTOR_BYTES", text)
    with pytest.raises(gw.InputError, match=f"GATEWRIGHT_VECTOR_BYTES: expected .* received '{text}'"):
        explained()


@pytest.mark.parametrize("name", ["gru", "layer_norm_gru", "slstm"])
@pytest.mark.parametrize("width", WIDTHS)
def test_narrower_vectors_give_what_the_equations_give(another_machine, monkeypatch, width, name):
    monkeypatch.setenv("GATEWRIGHT_VECTOR_BYTES", str(width))
    cell = gw.CATALOGUE.get(name) or CELLS[name][0]
    for sizes, dtype in (
        (Sizes(T=3, B=5, I=4, H=16), torch.float32),
        (Sizes(T=2, B=3, I=3, H=7), torch.float64),
        (Sizes(T=2, B=9, I=5, H=11), torch.float32),
    ):
        errors = compare(make_call(cell, sizes, dtype))
        assert errors.worst <= TOLERANCES[dtype], (sizes, errors)


@pytest.mark.parametrize("triple", ["aarch64-unknown-linux-gnu", "arm64-apple-darwin23"])
def test_kernels_can_be_made_for_arm(another_machine, monkeypatch, triple):
    """Where the tests run on another processor there is no running them, but LLVM takes them."""
    import llvmlite.binding as llvm

    arm = engine.Machine("generic", "", 16, 32, "llvm.aarch64.hint(i32 1)", "NEON")
    texts = []
    with monkeypatch.context() as patches:
        patches.setattr(engine, "machine", lambda: arm)
        patches.setattr(engine, "library", lambda key, make: texts.append(make()) or pytest.fail("made"))
        call = make_call(gw.CATALOGUE["lstm"], Sizes(T=3, B=5, I=4, H=7), torch.float32)
        with pytest.raises(pytest.fail.Exception, match="made"):
            compare(call)
    llvm.initialize_all_targets()
    llvm.initialize_all_asmprinters()
    target = llvm.Target.from_triple(triple).create_target_machine(opt=1, jit=True)
    module = llvm.parse_assembly(texts[0])
    module.triple, module.data_layout = target.triple, str(target.target_data)
    assert len(target.emit_object(module)) > 1000
