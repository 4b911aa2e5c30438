"""The operations by themselves, in one process and in several."""

import pytest
import torch

from ppo_lm.distributed import Processes, processes
from ppo_lm.distributed.outcome import pack, pack_error, unpack
from ppo_lm.distributed.place import ADDRESS, find_place
from ppo_lm.distributed.sharing import SMALL, share_jobs
from ppo_lm.errors import ConfigError, NumericalFault, ProcessLost, RewardError
from ppo_lm.experience_buffer import MemoryBudget
from tests.distributed.conftest import environment_of, in_processes


@pytest.mark.fast
@pytest.mark.parametrize("lengths", [[], [3], [5, 1, 1, 1, 1, 1], [7, 7, 7], list(range(40))])
@pytest.mark.parametrize("size", [1, 2, 3, 7])
def test_every_row_is_dealt_out_once_and_the_load_is_even(lengths, size):
    shares = [share_jobs([lengths], size, rank)[0] for rank in range(size)]
    assert len({share.all_rows for share in shares}) == 1
    assert sorted(row for rows in shares[0].all_rows for row in rows) == list(range(len(lengths)))
    loads = [sum(lengths[row] for row in rows) for rows in shares[0].all_rows]
    assert max(loads) - min(loads) <= max(lengths, default=0)
    for share in shares:
        assert share.own or not lengths
        assert not share.counts or share.own == list(share.all_rows[share.rank])


@pytest.mark.fast
@pytest.mark.parametrize("jobs", [[[5] * 8, [5] * 8], [[9, 1, 4, 4], [3] * 20, [50]], [[], [2, 2]], [[30] * 3, [1]]])
@pytest.mark.parametrize("size", [1, 2, 3, 4, 8])
def test_every_row_of_every_job_is_dealt_out_once_and_a_process_has_few_jobs(jobs, size):
    found = [share_jobs(jobs, size, rank) for rank in range(size)]
    shares = found[0]
    for lengths, share in zip(jobs, shares, strict=True):
        assert sorted(row for rows in share.all_rows for row in rows) == list(range(len(lengths)))
    for others in found[1:]:
        assert [share.all_rows for share in others] == [share.all_rows for share in shares]
    loads = [
        sum(lengths[row] for lengths, share in zip(jobs, shares) for row in share.all_rows[rank])
        for rank in range(size)
    ]
    longest = max(max(lengths, default=0) for lengths in jobs)
    assert max(loads) <= sum(map(sum, jobs)) / size * (1 + SMALL) + len(jobs) * longest
    assert sum(bool(rows) for share in shares for rows in share.all_rows) <= size + len(jobs) - 1


@pytest.mark.fast
def test_two_jobs_of_the_same_size_are_one_for_each_half_of_the_processes():
    one, two = share_jobs([[3, 1, 2, 2], [2, 2, 2, 2]], 4, 0)
    assert one.all_rows == ((0, 1), (2, 3), (), ())
    assert two.all_rows == ((), (), (0, 2), (1, 3))
    one, two = share_jobs([[4, 4], [7]], 2, 1)  # a small difference is not worth another pass
    assert (one.all_rows, two.all_rows) == (((0, 1), ()), ((), (0,)))
    one, two = share_jobs([[4] * 6, [8]], 2, 1)  # a large one is
    assert (one.all_rows, two.all_rows) == (((0, 1, 3, 5), (2, 4)), ((), (0,)))


def operations():
    team = processes()
    rank, size = team.place.rank, team.place.size
    share = team.share(torch.tensor([4, 1, 6, 2, 3]))
    numbers = torch.tensor([[float(row), row + 0.5][: 1 + row % 2] + [9.0] * (1 - row % 2) for row in share.own])
    gathered = team.gather_rows(share, torch.tensor(share.own))
    wide = team.gather_rows(share, torch.ones(len(share.own), 1 + rank), fill=-1)
    items = team.gather_items(share, [f"row {row}" for row in share.own])
    tensors = [torch.tensor([rank + 1.0]), torch.tensor([[1, 2]]), torch.tensor(0.5, dtype=torch.float64)]
    team.add_up(tensors)
    weights = [torch.zeros(2, requires_grad=True) for _ in range(3)]
    weights[0].grad = torch.full((2,), 1.0)
    if rank == size - 1:
        weights[1].grad = torch.full((2,), 3.0)
    team.add_up_gradients(weights)
    return {
        "gathered": gathered.tolist(),
        "width": wide.shape[1],
        "filled": (wide == -1).sum().item(),
        "items": items,
        "sums": [tensor.tolist() for tensor in tensors],
        "gradients": [None if weight.grad is None else weight.grad.tolist() for weight in weights],
        "each": team.of_each({"rank": rank}),
        "highest": team.highest(10 - rank),
        "once": team.once(lambda: ("made by", rank)),
        "together": team.together(lambda: rank),
        "numbers": len(numbers),
    }


@pytest.mark.parametrize("size", [1, 2, 3])
def test_the_operations(size):
    found = in_processes(size, operations)
    for rank, one in enumerate(found):
        assert one["gathered"] == [0, 1, 2, 3, 4]
        assert one["items"] == [f"row {row}" for row in range(5)]
        assert one["width"] == size
        assert one["sums"] == [[size * (size + 1) / 2], [[size, 2 * size]], size * 0.5]
        assert one["gradients"] == [[size, size], [3.0, 3.0], None]
        assert one["each"] == [{"rank": other} for other in range(size)]
        assert (one["highest"], one["once"], one["together"]) == (10, ("made by", 0), rank)
    assert sum(one["numbers"] for one in found) == 5


def more_processes_than_rows():
    team = processes()
    share = team.share([3, 4])
    return share.counts, len(share.own), team.gather_rows(share, torch.tensor(share.own) * 10).tolist()


def test_a_process_without_a_row_makes_the_same_calls():
    found = in_processes(3, more_processes_than_rows)
    assert sorted(counts for counts, _, _ in found) == [False, True, True]
    assert all(rows == 1 and gathered == [0, 10] for _, rows, gathered in found)


class Peculiar(Exception):
    """As in a user's code: more arguments than it keeps."""

    def __init__(self, where, why):
        super().__init__(f"{where}: {why}")
        self.where = where


def fails_at(rank, error):
    def work():
        if processes().place.rank == rank:
            raise error
        return "fine"

    return work


def an_error_at_one(rank, kind):
    team, place = processes(), processes().place
    error = {
        "config": ConfigError(["one", "two"], "PPOConfig"),
        "fault": NumericalFault("NaN"),
        "peculiar": Peculiar("here", "there"),
        "memory": torch.OutOfMemoryError("CUDA out of memory"),
    }[kind]
    seen = []
    for attempt in (team.together, team.once):

        def work(place=place, error=error):
            if place.rank == rank:
                raise error

        try:
            attempt(work)
            seen.append(None)
        except Exception as raised:
            seen.append((type(raised).__name__, str(raised), vars(raised).get("problems"), vars(raised).get("where")))
    return seen, team.highest(place.rank)


KINDS = dict(config="ConfigError", fault="NumericalFault", peculiar="Peculiar", memory="OutOfMemoryError")


@pytest.mark.parametrize("rank", [0, 1])
@pytest.mark.parametrize("kind", KINDS)
def test_an_error_at_one_is_raised_at_all_and_they_go_on_together(rank, kind):
    found = in_processes(2, an_error_at_one, rank, kind)
    assert found[0] == found[1]
    (together, once), highest = found[0]
    assert highest == 1
    assert (once == together) if rank == 0 else (once is None)
    assert together[0] == KINDS[kind]
    assert together[2] == (["one", "two"] if kind == "config" else None)
    assert together[3] == ("here" if kind == "peculiar" else None)


@pytest.mark.fast
def test_an_error_of_a_class_that_cannot_be_found_says_what_it_was():
    class Local(RewardError):
        pass

    with pytest.raises(Exception, match="Local: out of luck") as raised:
        unpack(pack_error(Local("out of luck")))
    assert isinstance(raised.value, RewardError.__mro__[1])
    try:
        print(1 / 0)
    except ZeroDivisionError as error:
        packed = pack_error(error)
    with pytest.raises(ZeroDivisionError) as raised:
        unpack(packed)
    assert "print(1 / 0)" in str(raised.value.__cause__)  # where it was
    assert unpack(pack({"a": [1, None]})) == {"a": [1, None]}


def alone_inside():
    team, sizes = processes(), []
    team.once(lambda: sizes.append(processes().size))
    team.together(lambda: sizes.append(processes().size))
    return sizes, processes().size


def test_within_once_and_together_a_process_is_by_itself():
    assert in_processes(2, alone_inside) == [([1, 1], 2), ([1], 2)]


def out_of_memory_at(rank):
    """The memory of one process holds 30 tokens, that of the others any number."""
    said, budget, tried = [], MemoryBudget(tokens=100), []
    budget.say = said.append
    lengths = torch.tensor([10, 10, 10, 10, 10, 10])

    def attempt(tokens):
        tried.append(tokens)
        if processes().place.rank == rank and tokens > 30:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return tokens

    return budget.fit_tokens([lengths], attempt), budget.tokens, tried, len(said)


@pytest.mark.parametrize("rank", [0, 1])
def test_memory_that_runs_out_at_one_is_halved_at_all(rank):
    found = in_processes(2, out_of_memory_at, rank)
    assert found[0] == found[1] == (30, 30, [100, 30], 1)


def slots_at(rank):
    budget = MemoryBudget(slots=8 if processes().place.rank == rank else 64)
    said = []
    budget.say = said.append
    budget.agree_on_slots()
    return budget.slots, said


def test_all_sample_as_many_responses_at_once_as_the_smallest_can():
    assert (
        in_processes(2, slots_at, 1)
        == [(8, ["another process can sample only 8 responses at once, so all do from now on"])] * 2
    )
    assert in_processes(2, slots_at, 0) == [(8, [])] * 2  # the first process has said it by itself


def goes_away(rank):
    team = processes()
    if team.place.rank == rank:
        raise SystemExit(3)
    return team.highest(1)


@pytest.mark.parametrize("rank", [0, 1])
def test_a_process_that_went_away_is_noticed_and_the_others_work_alone(rank):
    found = in_processes(3, goes_away, rank)
    for other, result in enumerate(found):
        if other != rank:
            assert isinstance(result, ProcessLost), result
            assert "another of the 3 processes ended" in str(result)


@pytest.mark.fast
def test_the_place_is_what_the_launcher_says(monkeypatch):
    for name in environment_of(0, 1, 1):
        monkeypatch.delenv(name, raising=False)
    assert find_place() == (0, 1, 0, 1)
    monkeypatch.setenv("WORLD_SIZE", "4")
    assert find_place().size == 1  # Slurm sets WORLD_SIZE without a rank
    for name, value in environment_of(3, 4, 29500).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("LOCAL_RANK", "1")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    assert find_place() == (3, 4, 1, 2)
    monkeypatch.setenv("RANK", "4")
    with pytest.raises(ConfigError, match=r"make no sense \(RANK=4, WORLD_SIZE=4, .*; start them with torchrun"):
        find_place()
    monkeypatch.setenv("RANK", "0")
    monkeypatch.delenv(ADDRESS[0])
    with pytest.raises(ConfigError, match="MASTER_ADDR=,"):
        find_place()


@pytest.mark.fast
def test_alone_nothing_is_asked_of_anybody():
    alone, tensor = Processes(), torch.tensor([1.0])
    share = alone.share([5, 6])
    assert (share.own, share.is_whole, share.counts) == ([0, 1], True, True)
    assert alone.gather_rows(share, tensor) is tensor
    assert alone.once(lambda: 3) == alone.together(lambda: 3) == alone.highest(3) == 3
    assert not torch.distributed.is_initialized()
