"""What a caller may ask of a device besides its name: batches, threads, precision, options of onnxruntime's own."""

from __future__ import annotations

import threading

import pytest

from histo_runtime.errors import UsageError
from tests.runtime.device.fake_onnxruntime import CPU, CUDA, FakeOptions, FakeRuntime, opened


@pytest.mark.parametrize("runtime", ["works"], indirect=True)
def test_the_warm_up_on_a_gpu_is_a_whole_batch(runtime: FakeRuntime) -> None:
    assert opened("cuda").batch_views == 256
    assert opened("cuda", batch_views=40).batch_views == 40
    assert opened("cpu").batch_views == 32
    assert opened("cpu", batch_views=40).batch_views == 40
    assert runtime.runs == [(CUDA, 256), (CUDA, 40), (CPU, 1), (CPU, 1)]


@pytest.mark.parametrize("runtime", [("works", "works")], indirect=True)
def test_exact_turns_tf32_off_and_is_refused_where_it_can_not_be(runtime: FakeRuntime) -> None:
    opened("cuda:1", exact=True)
    assert runtime.requests[-1][0] == (CUDA, {"device_id": "1", "prefer_nhwc": "1", "use_tf32": "0"})
    opened("cuda:1")
    assert "use_tf32" not in runtime.requests[-1][0][1]
    assert opened("cpu", exact=True).device == "cpu"
    with pytest.raises(UsageError, match="TensorRT"):
        opened("tensorrt", exact=True)


@pytest.mark.parametrize("runtime", ["works"], indirect=True)
def test_a_callers_provider_options_come_on_top_of_ours(runtime: FakeRuntime) -> None:
    opened("cuda", provider_options={CUDA: {"gpu_mem_limit": "1000"}, CPU: {"a": "b"}})
    assert runtime.requests[-1] == [
        (CUDA, {"device_id": "0", "prefer_nhwc": "1", "gpu_mem_limit": "1000"}),
        (CPU, {"a": "b"}),
    ]
    for wrong in ({"CUDA": {}}, {CUDA: {"device_id": "1"}}):
        with pytest.raises(UsageError, match="provider_options"):
            opened("cuda", provider_options=wrong)


@pytest.mark.parametrize("runtime", ["works", "absent"], indirect=True)
def test_cuda_graphs_are_for_cuda_alone_and_for_who_asks(runtime: FakeRuntime) -> None:
    def graphs(device: str, asked: str) -> bool:
        return opened(device, provider_options={CUDA: {"enable_cuda_graph": asked}}).cuda_graph

    assert graphs("auto", "1") == graphs("auto", "True") == (runtime.cuda == "works")
    assert not graphs("cpu", "1")
    assert not graphs("auto", "0")
    assert not opened("auto").cuda_graph


@pytest.mark.parametrize("runtime", ["works"], indirect=True)
@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_a_callers_session_options_are_used_as_they_are(runtime: FakeRuntime, device: str) -> None:
    own = FakeOptions(intra_op_num_threads=3)
    found = opened(device, session_options=own)
    assert runtime.options == [own]
    assert vars(own) == {"intra_op_num_threads": 3}
    assert found.threads == 3
    with pytest.raises(UsageError, match="intra_op_num_threads"):
        opened(device, session_options=own, threads=2)


@pytest.mark.parametrize("runtime", ["works"], indirect=True)
def test_a_session_that_flushes_denormals_is_never_opened_on_the_callers_thread(runtime: FakeRuntime) -> None:
    """onnxruntime sets the flushing on the thread that opens it, for good."""
    for device in ("cpu", "cuda"):
        opened(device, threads=5)
    assert all(options.entries["session.set_denormal_as_zero"] == "1" for options in runtime.options)
    assert all(options.intra_op_num_threads == 5 for options in runtime.options)
    assert threading.current_thread() not in runtime.threads
    assert not any(thread.is_alive() for thread in runtime.threads)
