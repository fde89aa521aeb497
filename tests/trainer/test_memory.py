"""What a model leaves in memory when it is deleted."""

import ctypes
import gc
import itertools
import sys
import weakref
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import tensorflow as tf

from tests.conftest import slow_except, small_vae
from vae_keras import ELBO, IWAE, VAE, evaluation

MEGABYTE = 2**20


def dataset(x):
    return tf.data.Dataset.from_tensor_slices(x).batch(20)


USES = {
    "fit arrays": lambda vae, x: vae.fit(x, batch_size=20, validation_data=x, verbose=0),
    "fit a dataset": lambda vae, x: vae.fit(dataset(x), verbose=0),
    "predict": lambda vae, x: vae.predict(x, verbose=0),
    "encode": lambda vae, x: vae.encode(x),
    "elbo": lambda vae, x: vae.elbo(x),
    "sample": lambda vae, _: vae.sample(3),
    "estimate the likelihood": lambda vae, x: evaluation.estimate_log_likelihood(
        vae, np.uint8(255) * (x[:5] > 99), 10
    ),
    "measure the ELBO": lambda vae, x: evaluation.evaluate_elbo(vae, x[:5], 2),
}
OBJECTIVES = {"ELBO": ELBO(), "IWAE": IWAE(3, num_resampled=2)}


def graphs() -> dict[int, weakref.ref]:
    """All graphs with an operation. Each thread has an empty one for as long as it lives."""
    for _ in range(3):  # the graphs inside of a graph are found in a later pass
        gc.collect()
    found = [each for each in gc.get_objects() if is_graph(each)]
    return {id(graph): weakref.ref(graph) for graph in found if graph.get_operations()}


def is_graph(each) -> bool:
    try:
        return isinstance(each, tf.Graph)
    except Exception:  # a lazy module, which imports something when it is looked at
        return False


FAST = [("fit arrays", "ELBO")]


@pytest.mark.parametrize(
    ("use", "objective"), slow_except(FAST, itertools.product(USES, OBJECTIVES))
)
def test_no_graph_outlives_its_model(digits, use, objective):
    def used() -> None:
        USES[use](small_vae(objective=OBJECTIVES[objective]), digits)

    used()  # what the process traces once for all models
    before = graphs()
    used()
    left = [reference() for key, reference in graphs().items() if key not in before]
    assert [str(graph) for graph in left if graph is not None] == []


@pytest.mark.parametrize(
    "use",
    [
        lambda vae, x: vae.fit(x, batch_size=20, verbose=0),
        lambda vae, x: vae.fit(x[:20], validation_data=x, verbose=0),
        lambda vae, x: vae.evaluate(x, verbose=0),
        lambda vae, x: vae.predict(x, verbose=0),
    ],
    ids=["fit", "validation", "evaluate", "predict"],
)
def test_no_array_outlives_its_last_use(digits, use):
    x = digits.copy()
    use(small_vae(), x)
    reference = weakref.ref(x)
    del x
    gc.collect()
    assert reference() is None


class MallocInfo(ctypes.Structure):
    """The `mallinfo2` of the GNU C library."""

    _fields_ = tuple(
        (name, ctypes.c_size_t)
        for name in (
            *("arena", "ordblks", "smblks", "hblks", "hblkhd"),
            *("usmblks", "fsmblks", "uordblks", "fordblks", "keepcost"),
        )
    )


def allocated() -> float:
    """The memory in MB that the process has asked the C library for and has not given back.

    Resident memory is no measure of it: it holds what the library keeps for later, which depends on
    the threads of all tests before.
    """
    gc.collect()
    mallinfo2 = ctypes.CDLL("libc.so.6").mallinfo2
    mallinfo2.restype = MallocInfo
    info = mallinfo2()
    return (info.uordblks + info.hblkhd) / MEGABYTE


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="calls the GNU C library")
@pytest.mark.parametrize("jit_compile", [False, True])
def test_a_trained_model_leaves_little_memory(jit_compile):
    """The networks of `mlp_mnist`. XLA keeps what it compiled until the process ends.

    TensorFlow keeps the Python frames of each operation with it, 0.13 MB a model for each frame of
    the call stack. A thread of its own starts with as few frames as a script.
    """
    x = np.random.default_rng(0).integers(0, 256, (600, 28, 28, 1), dtype=np.uint8)

    def fit() -> None:
        vae = VAE()
        vae.compile(jit_compile=jit_compile)
        vae.fit(x, batch_size=100, verbose=0)

    def used() -> None:
        with ThreadPoolExecutor(1) as pool:
            pool.submit(fit).result()

    for _ in range(2):
        used()
    before, count = allocated(), 3
    for _ in range(count):
        used()
    assert (allocated() - before) / count < (30 if jit_compile else 10)
