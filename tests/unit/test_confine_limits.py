"""The limits of an execution environment, as numbers."""

from streamfn.pool.confine.limits import Limits


def test_no_limits_are_the_machines_own_but_for_lambdas_descriptors_and_processes():
    limits = Limits()
    assert limits.memory_bytes is None
    assert limits.storage_bytes is None
    assert (limits.descriptors, limits.processes) == (1024, 1024)


def test_memory_and_storage_are_counted_in_lambdas_mb():
    limits = Limits(memory_mb=128, ephemeral_storage_mb=512)
    assert limits.memory_bytes == 134_217_728
    assert limits.storage_bytes == 536_870_912


def test_limits_survive_their_way_to_the_zygote():
    limits = Limits(memory_mb=256, ephemeral_storage_mb=None, descriptors=64, processes=10)
    assert Limits.from_json(limits.to_json()) == limits
