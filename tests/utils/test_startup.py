"""The start of a process: which command line it runs, and what an import prints."""

import contextlib
import gc
import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

import vae_keras
from vae_keras.utils import startup

CHECKOUT = Path(vae_keras.__file__).parent.parent


@pytest.mark.parametrize(
    ("argv", "orig_argv", "program"),
    [
        (["-m", "presets"], ["python", "-m", "vae_keras", "presets"], "python -m vae_keras"),
        (["-m"], ["python", "-X", "utf8", "-m", "vae_keras"], "python -m vae_keras"),
        (["-m"], ["python", "-m", "vae_keras.data"], None),
        (["-m"], ["python", "-m", "pytest"], None),
        (["/usr/local/bin/vae-keras", "presets"], [], "vae-keras"),
        (["C:\\Scripts\\vae-keras.exe"] if os.name == "nt" else ["vae-keras.exe"], [], "vae-keras"),
        ([str(CHECKOUT / "train.py"), "--epochs", "1"], [], "python train.py"),
        (["/home/user/train.py"], [], None),
        (["-c"], ["python", "-c", "import vae_keras"], None),
        ([""], ["python"], None),
        ([], [], None),
    ],
)
def test_only_a_command_is_taken_for_one(argv, orig_argv, program):
    assert startup.command_line(argv, orig_argv) == program


def test_a_relative_path_of_the_script_is_known(monkeypatch):
    monkeypatch.chdir(CHECKOUT)
    assert startup.command_line(["train.py"], []) == "python train.py"


def test_this_process_runs_no_command():
    assert startup.PROGRAM is None


def test_everything_written_to_standard_error_is_discarded():
    """Also what C++ writes to the descriptor, and what Python had still to flush."""
    code = (
        "import os, sys\n"
        "from vae_keras.utils.startup import quiet\n"
        "sys.stderr.write('before ')\n"
        "try:\n"
        "    with quiet():\n"
        "        os.write(2, b'C++ ')\n"
        "        sys.stderr.write('Python ')\n"
        "        raise KeyboardInterrupt\n"
        "except KeyboardInterrupt:\n"
        "    os.write(2, b'after')\n"
    )
    code = "import sys\nsys.argv[0] = 'vae-keras'\n" + code
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr == "before after"


def test_a_process_without_standard_error_is_served():
    code = (
        "import sys\n"
        "sys.argv[0] = 'vae-keras'\n"
        "from vae_keras.utils.startup import quiet\n"
        "with quiet():\n"
        "    print('done')\n"
    )
    command = f'exec "{sys.executable}" -c "$1" 2>&-'
    done = subprocess.run(["sh", "-c", command, "sh", code], stdout=subprocess.PIPE, check=True)
    assert done.stdout == b"done\n"


@pytest.mark.parametrize("is_on", [True, False])
def test_the_collector_is_left_as_it_was(is_on):
    was_on = gc.isenabled()
    try:
        gc.enable() if is_on else gc.disable()
        with contextlib.suppress(ImportError), startup.without_collection():
            assert not gc.isenabled()
            raise ImportError
        assert gc.isenabled() is is_on
    finally:
        gc.enable() if was_on else gc.disable()


@pytest.mark.skipif(
    platform.libc_ver()[0] != "glibc", reason="it is a setting of the GNU C library"
)
def test_freed_memory_is_kept():
    """Memory that is kept is not asked for again, so Linux counts no new pages."""
    code = (
        "import ctypes, resource\n"
        "from vae_keras.utils import startup\n"
        "libc = ctypes.CDLL(None)\n"
        "libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]\n"
        "libc.free.argtypes = [ctypes.c_void_p]\n"
        "def pages():\n"
        "    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt\n"
        "    for _ in range(10):\n"
        "        blocks = [libc.malloc(2**20) for _ in range(16)]\n"
        "        for block in blocks:\n"
        "            ctypes.memset(block, 1, 2**20)\n"
        "        for block in reversed(blocks):\n"
        "            libc.free(block)\n"
        "    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before\n"
        "returned = pages()\n"
        "startup.keep_freed_memory()\n"
        "pages()\n"  # the heap grows once more
        "print(returned, pages())\n"
    )
    code = "import sys\nsys.argv[0] = 'vae-keras'\n" + code
    done = subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, check=True)
    returned, kept = map(int, done.stdout.split())
    assert returned > 1000  # each of ten rounds touches 4,096 pages of 4 KiB
    assert kept < 100


@pytest.mark.slow
def test_the_import_leaves_out_what_tensorflow_probability_loads_beside_tensorflow():
    code = (
        "import gc, sys, vae_keras\n"
        "assert gc.isenabled()\n"
        "assert 'tensorflow_probability.python.distributions' in sys.modules\n"
        "assert 'tensorflow_probability.python.experimental' not in sys.modules\n"
        "import tensorflow_probability as tfp\n"
        "assert tfp.experimental.mcmc and tfp.layers.DenseFlipout\n"  # They load when asked for.
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.slow
def test_the_library_has_its_names_in_the_process_of_a_command():
    """A user's script may have the name of a command."""
    code = (
        "import sys\n"
        "sys.argv[0] = 'vae-keras'\n"
        "import vae_keras\n"
        "assert 'keras' not in sys.modules\n"
        "for name in vae_keras.__all__:\n"
        "    assert getattr(vae_keras, name) is not None\n"
        "from vae_keras import data, datasets, evaluation, export, optimizers, priors, training\n"
        "assert data.binarize and datasets.load and training.train\n"
        "assert not hasattr(vae_keras, 'nonsense')\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.slow
def test_keras_does_not_import_what_no_command_uses():
    code = (
        "import sys\n"
        "sys.argv[0] = 'vae-keras'\n"
        "from vae_keras.utils import startup\n"
        "startup.require_environment()\n"
        "assert 'keras' in sys.modules and 'matplotlib' not in sys.modules\n"
        "import matplotlib.pyplot\n"  # It was hidden from Keras only.
    )
    subprocess.run([sys.executable, "-c", code], check=True)
