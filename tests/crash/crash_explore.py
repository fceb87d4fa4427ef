"""Goes through crash states and judges each: every short script first, then random long ones.

Run by the tests in as many processes as there are cores; by hand:

    python tests/crash/crash_explore.py --states 2000000 --seed 1 --share 0/1

Prints one line of JSON, early on SIGTERM: what was looked at, and every broken promise with the script and the
moment.  A state is a disk's content together with what the outside was told; each is judged once, by the
process whose share its hash falls into (PYTHONHASHSEED=0 makes hashes agree between processes).
"""

from __future__ import annotations

import argparse
import json
import logging
import random
import signal
import sys
from collections.abc import Iterable, Sequence
from typing import Any, NoReturn

from crash_judge import judge, revive
from crash_scripts import ENDS, Script, long_script, short_scripts
from crash_told import Moment, Told, Violation
from crash_world import RESERVE_BLOCK, Life, newborn

from streamfn.errors import StreamfnError
from streamfn.log.shard import reserve
from streamfn.log.storage.durability import FSYNC, OS, Durability, interval
from streamfn.testing.disk import SimDisk
from streamfn.testing.volatile import Image

# States judged of one moment: of a short script nearly always all there are.
_SHORT_STATES = 1 << 16
_LONG_STATES = 12
_LONG_MOMENTS = 24
# After a kill much is not synced that the next life takes for given: a second end is looked at more closely.
_LATER_STATES = 4
# Scripts whose every state is judged, and under which durability.
Plan = Sequence[tuple[Sequence[Script], Durability]]
PLAN: Plan = ((short_scripts(4), FSYNC), (short_scripts(3), OS))
_DURABILITIES = (FSYNC, FSYNC, OS, interval(50))
_COUNTS = ("scripts", "moments", "states", "short_scripts", "short_states", "skipped")


class Enough(BaseException):
    """As many states as were asked for have been judged."""


class Explorer:
    """Judges states of moments, each once; `broken` has a line for every promise that was not kept."""

    def __init__(
        self,
        seed: int,
        wanted: int,
        share: int = 0,
        shares: int = 1,
        *,
        broken_max: int = 20,
        life: type[Life] = Life,
    ) -> None:
        self.seed = seed
        self.scripts = self.moments = self.states = 0
        self.skipped = 0
        self.short_scripts: list[int] = []
        self.short_states: list[int] = []
        self.broken: list[str] = []
        self._wanted = wanted
        self._share = share
        self._shares = shares
        self._broken_max = broken_max
        self._life = life
        self._seen: set[int] = set()

    def short(self, scripts: Iterable[Script], durability: Durability) -> None:
        """Every crash state of the last operation of each script."""
        for script in scripts:
            chance = random.Random(f"{self.seed} {script}")
            moments: list[Moment] = []
            disk = SimDisk(newborn()[0])
            life = self._life(disk, Told(), durability, None if script else moments)
            try:
                for number, name in enumerate(script, 1):
                    if number == len(script):
                        life.watch(moments)
                    life.step(name)
                moments.append(life.moment())
            finally:
                life.end()
            self.scripts += 1
            self.skipped += sum(max(0, moment.crash.combinations - _SHORT_STATES) for moment in moments)
            self._judge_all(moments, (str(durability), *script), durability, _SHORT_STATES, chance)
        self.short_scripts.append(self.scripts - sum(self.short_scripts))
        self.short_states.append(self.states - sum(self.short_states))

    def long(self) -> None:
        """Random scripts of several lives, without end."""
        number = 0
        while True:
            chance = random.Random(f"{self.seed}/{number}")
            self._long(long_script(chance), number, chance)
            number += 1

    def _long(self, script: Script, number: int, chance: random.Random) -> None:
        durability = chance.choice(_DURABILITIES)
        moments: list[Moment] = []
        done: list[str] = [f"#{number}", str(durability)]
        self.scripts += 1
        life = self._life(SimDisk(newborn()[0]), Told(), durability, moments)
        try:
            for name in script:
                done.append(name)
                if name not in ENDS and self._survives(life, name):
                    moments.append(life.moment())
                    continue
                moment = life.moment()
                life.end()
                power = name == "power"
                image = moment.crash.killed()
                if power:
                    picks = [chance.randrange(alternatives) for alternatives in moment.crash.choices]
                    image = moment.crash.image(picks)
                reader_first = chance.random() < 0.3
                life = revive(
                    image,
                    moment.told,
                    durability,
                    reader_first=reader_first,
                    power=power,
                    life=self._life,
                    moments=moments,
                )
        except Exception as error:  # a life is not refused anything
            self._break(error, done, "found by the next life")
        finally:
            life.end()
        chance.shuffle(moments)
        self._judge_all(moments[:_LONG_MOMENTS], tuple(done), durability, _LONG_STATES, chance)

    def _survives(self, life: Life, step: str) -> bool:
        """Take a step; False where it met a fault after which the shard has to be opened anew."""
        try:
            life.step(step)
        except (StreamfnError, OSError):
            if not life.faulted:
                raise
            return life.writer._fence.reason is None
        return True

    def _judge_all(
        self, moments: list[Moment], script: Script, durability: Durability, limit: int, chance: random.Random
    ) -> None:
        for at, moment in enumerate(moments):
            self.moments += 1
            killed = moment.crash.killed()
            self._judge(killed, moment.told, script, durability, f"killed at moment {at}", power=False)
            for number, image in enumerate(moment.crash.states(limit, chance)):
                where = f"power lost at moment {at}, state {number}"
                self._judge(image, moment.told, script, durability, where, power=True)

    def _judge(
        self, image: Image, told: Told, script: Script, durability: Durability, where: str, *, power: bool
    ) -> None:
        key = hash((image.key(), told, durability, power))
        if key % self._shares != self._share or key in self._seen:
            return
        self._seen.add(key)
        self.states += 1
        reader_first = self.states % 2 == 0
        later = _LATER_STATES if not power else self.states % 5 == 0
        try:
            judge(image, told, durability, reader_first=reader_first, power=power, life=self._life, later=later)
        except Exception as error:  # whatever else is raised is a promise broken, too
            self._break(error, script, f"{where}, {'reader' if reader_first else 'writer'} first")
        if self.states >= self._wanted:
            raise Enough

    def _break(self, error: Exception, script: Iterable[str], where: str) -> None:
        what = str(error) if isinstance(error, Violation) else repr(error)
        self.broken.append(f"seed {self.seed}, script {' '.join(script) or 'open'}, {where}: {what}")
        if len(self.broken) >= self._broken_max:
            raise Enough


def explore(seed: int, wanted: int, share: int = 0, shares: int = 1, plan: Plan = PLAN, **options: Any) -> Explorer:
    """Judge `wanted` states, or until too many promises are broken, and return what was found."""
    explorer = Explorer(seed, wanted, share, shares, **options)
    try:
        for scripts, durability in plan:
            explorer.short(scripts, durability)
        explorer.long()
    except Enough:
        pass
    return explorer


def stop_early(*_: object) -> NoReturn:
    """Say what was found so far."""
    raise Enough


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--states", type=int, required=True)
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--share", default="0/1", help="K/N: this process judges the K-th of N shares")
    arguments = parser.parse_args()
    share, shares = map(int, arguments.share.split("/"))
    logging.disable()
    signal.signal(signal.SIGTERM, stop_early)
    reserve.BLOCK = RESERVE_BLOCK
    explorer = explore(arguments.seed, arguments.states // shares, share, shares)
    counts = {name: getattr(explorer, name) for name in _COUNTS}
    json.dump({**counts, "broken": explorer.broken}, sys.stdout)


if __name__ == "__main__":
    main()
