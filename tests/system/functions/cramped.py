"""A module whose Init leaves no room for a log segment to be mapped."""

import resource

with open("/proc/self/statm") as _file:
    _SIZE = int(_file.read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (_SIZE + (3 << 20), resource.RLIM_INFINITY))


def handler(event, context):
    return None
