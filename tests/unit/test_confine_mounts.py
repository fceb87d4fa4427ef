"""Where mounts are, as the kernel writes it down, and what is mounted in memory."""

import pytest

from streamfn.pool import linux
from streamfn.pool.confine import mounts, probe, storage


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("/tmp/plain", "/tmp/plain"),
        ("/tmp/a\\040b\\011c\\012d", "/tmp/a b\tc\nd"),
        ("/tmp/back\\134040", "/tmp/back\\040"),
        ("/tmp/für", "/tmp/für"),
    ],
)
def test_a_path_of_mountinfo_is_read_as_the_kernel_means_it(written, meant):
    assert mounts.unescaped(written) == meant


def test_a_mount_below_is_found_whatever_its_name(tmp_path):
    place = tmp_path / "für uns"
    place.mkdir()

    def deed():
        linux.unshare(linux.CLONE_NEWNS)
        linux.mount("none", "/", flags=linux.MS_REC | linux.MS_PRIVATE)
        mounts.mount_memory(str(place), 1 << 20)
        found = storage.mounts_below(str(tmp_path))
        assert found == [str(place)], found

    why = probe._tried(lambda: linux.unshare(linux.CLONE_NEWNS))
    if why is not None:
        pytest.skip(f"no mount namespaces here: {why}")
    assert probe._tried(deed) is None
