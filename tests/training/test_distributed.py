import torch
from torch import nn

from cryomend.training.distributed import Processes, is_first_process, join_processes


def test_one_process_is_the_first_and_shares_with_nobody(monkeypatch):
    for name in ("RANK", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    with join_processes("cpu") as processes:
        assert processes == Processes(0, 1, torch.device("cpu"))
        assert processes.first and is_first_process()
        assert processes.add([1.5, 2.0]) == [1.5, 2.0]
        assert processes.of_first(3.0) == 3.0
        assert processes.gather({"a": 1}) == [{"a": 1}]
        network = nn.Identity()
        assert processes.share_gradients(network) is network
    monkeypatch.setenv("RANK", "1")
    assert not is_first_process()
