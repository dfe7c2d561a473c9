"""What `./tools/fleet_sim` does: N devices, one broker, what they teach each other, and how fast.

Every device is the code that a real one runs (ledger, inbox, exchange, MQTT over a socket of its
own); only the embeddings are made up, and several devices share a process. The broker is a real
Mosquitto with accounts and access list, started here on loopback. It ends with the digest of every
device beside one that was computed from the taught rows alone; where any differs, with exit code 1.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import numpy as np

from accrue.errors import AccrueError, UsageError
from accrue.learn.state import State
from accrue.sync.broker import BrokerPlan, new_password
from accrue.sync.local_broker import LocalBroker
from simulation.devices import work
from simulation.meter import Meter
from simulation.network import Faults as NetworkFaults
from simulation.network import Network, network
from simulation.plan import FLEET, Faults, Place, Plan, id_of_class
from simulation.processes import usage
from simulation.relaying import relaying

ANSWER_S = 240.0  # the longest that a process may take to answer
POLL_S = 0.25
COUNTED_S = 2.5  # the broker tells its counts every second
TOLD = 8  # devices that lack something, when time is up
LATENCY_TARGETS = (50, 95, 99)
LARGEST = {"devices": 5000, "classes": 1000, "shots": 1000, "processes": 64}


class Workers:
    """The processes that hold the devices."""

    def __init__(self, plan: Plan, place: Place) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipes: list[Connection] = []
        self._processes: list[BaseProcess] = []
        for p in range(plan.processes):
            here, there = context.Pipe()
            mine = list(range(p, plan.devices, plan.processes))
            process = context.Process(target=work, args=(there, plan, mine, place), daemon=True)
            process.start()
            there.close()
            self._pipes.append(here)
            self._processes.append(process)

    def ask(self, word: str, *given: Any) -> list[Any]:
        """The answer of each process."""
        for pipe in self._pipes:
            pipe.send((word, *given))
        found = []
        for pipe in self._pipes:
            if not pipe.poll(ANSWER_S):
                raise UsageError(f"a process of devices gave no answer to {word!r}")
            try:
                found.append(pipe.recv())
            except EOFError:
                raise UsageError("a process of devices ended; its error stands above") from None
        return found

    def status(self) -> Counter[str]:
        return sum((Counter(one) for one in self.ask("status")), Counter())

    def close(self) -> None:
        for process in self._processes:
            process.terminate()
        for process in self._processes:
            process.join(5)
            if process.is_alive():
                process.kill()


def say(text: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)


def wait_for(
    what: str,
    ask: Callable[[], bool],
    until: float,
    also: Callable[[], None],
    workers: Workers,
) -> float:
    """Seconds that it took.

    Raises:
        UsageError: it had not come when time was up; a few of the devices are told of.
    """
    began = time.monotonic()
    while not ask():
        if time.monotonic() > until:
            for line in [line for found in workers.ask("behind") for line in found][:TOLD]:
                say(line)
            raise UsageError(f"time is up and this has not come: {what}", hint="--seconds")
        also()
        time.sleep(POLL_S)
    return time.monotonic() - began


@contextmanager
def started_broker(plan: Plan, folder: Path) -> Iterator[tuple[LocalBroker, str]]:
    """Mosquitto as `accrue-fleet broker` configures it, and the password of all devices."""
    broker = LocalBroker(
        folder, BrokerPlan(FLEET, tls=plan.tls, autosave_s=1 if plan.faults.kills else 60)
    )
    password = new_password()
    accounts = dict.fromkeys(plan.device_ids(), ("device", password))
    for user, role in (("relay", "relay"), ("meter", "owner")):
        broker.passwords[user] = password
        accounts[user] = (role, password)
    broker.files.set_accounts(accounts)
    with broker.files.access_list.open("a") as file:
        file.write("\nuser meter\ntopic read $SYS/#\n")
    with broker.files.configuration.open("a") as file:
        file.write("sys_interval 1\n")
    with broker:
        yield broker, password


class Faulty:
    """Does to the broker and the network what the plan says, at its time."""

    def __init__(self, plan: Plan, broker: LocalBroker, net: Network | None) -> None:
        self._broker = broker
        self._net = net
        self.cpu_s = 0.0
        self.peak_rss = 0
        self.kills = 0
        self._due: list[tuple[float, Callable[[], None]]] = []
        faults, length = plan.faults, plan.teaching_s
        for k in range(faults.kills):
            at = length * (k + 0.5) / faults.kills
            self._due += [(at, self._kill), (at + faults.down_s, broker.start)]
        if faults.partition and net is not None:
            self._due += [
                (0.25 * length, lambda: net.cut(True)),
                (0.75 * length, lambda: net.cut(False)),
            ]
        self._due.sort(key=lambda pair: pair[0])

    @property
    def done(self) -> bool:
        return not self._due

    def act(self, since_start_s: float) -> None:
        while self._due and self._due[0][0] <= since_start_s:
            self._due.pop(0)[1]()

    def load(self) -> tuple[float, int]:
        """CPU seconds and peak memory of all broker processes so far."""
        cpu_s, rss = usage(self._broker.pid)
        return self.cpu_s + cpu_s, max(self.peak_rss, rss)

    def _kill(self) -> None:
        self.cpu_s, self.peak_rss = self.load()
        self._broker.kill()
        self.kills += 1
        say(f"broker killed ({self.kills})")


def run(plan: Plan, seconds: float, keep: Path | None) -> dict[str, Any]:
    """The run.

    Raises:
        AccrueError: a process failed, or time was up.
    """
    until = time.monotonic() + seconds
    with ExitStack() as stack:
        folder = keep or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="fleet-sim-")))
        broker, password = stack.enter_context(started_broker(plan, folder / "broker"))
        ports = dict.fromkeys(("plain", "cut", "slow"), broker.port)
        net = None
        if plan.faults.need_network:
            slow = plan.faults
            net = stack.enter_context(
                network(
                    broker.port,
                    NetworkFaults(
                        slow.duplicate, slow.slow_delay_s, slow.slow_bytes_per_s, plan.tls
                    ),
                    plan.seed,
                )
            )
            ports = net.ports
        ca = broker.files.ca if plan.tls else None
        relay = None
        if plan.relay:
            relay = stack.enter_context(relaying(broker.endpoint("relay")))
        workers = Workers(plan, Place(ports, password, ca, folder))
        stack.callback(workers.close)
        meter = Meter(broker.endpoint("meter"), plan.scope)
        stack.callback(meter.close)
        return measured(plan, until, workers, Faulty(plan, broker, net), meter, net, relay)


def measured(
    plan: Plan,
    until: float,
    workers: Workers,
    faulty: Faulty,
    meter: Meter,
    net: Network | None,
    relay: Callable[[], dict[str, Any]] | None,
) -> dict[str, Any]:
    def listen() -> None:
        meter.step(0.0)

    say(f"{plan.devices} devices connect")
    expected = {"ready": plan.devices}
    if plan.relay:
        expected["following"] = plan.devices

    def started() -> bool:
        now = workers.status()
        return all(now[key] == count for key, count in expected.items())

    startup_s = wait_for("all devices ready", started, until, listen, workers)
    say(f"ready after {startup_s:.1f} s; {plan.classes * plan.shots} teaches, {plan.rate:g}/s")
    cpu_before, _ = faulty.load()
    sys_before = meter.counters()
    teaches = plan.teaches()
    start = time.monotonic() + 0.5
    load_before = os.getloadavg()[0]
    workers.ask("teach", start, teaches)
    shown = 0.0
    while True:
        now = time.monotonic()
        faulty.act(now - start)
        listen()
        if now - shown >= 2.0:
            shown = now
            status = workers.status()
            say(f"taught {status['taught']}, applied {status['applied']}")
            if status["taught"] == len(teaches) and faulty.done:
                break
        if now > until:
            raise UsageError("time is up while teaching", hint="--seconds")
        time.sleep(0.05)
    taught = [one for found in workers.ask("taught") for one in found]
    ids = plan.device_ids()
    target: dict[tuple[str, str], int] = {}
    for author, class_index, revision, _ in taught:
        key = ids[author], id_of_class(class_index)
        target[key] = max(target.get(key, 0), revision)
    workers.ask("target", target)
    wait_for(
        "every device has all that was taught",
        lambda: workers.status()["behind"] == 0,
        until,
        listen,
        workers,
    )
    figures = workers.ask("figures")
    last_taught = max(at for *_, at in taught)
    last_applied = max(found["last_applied"] for found in figures)
    wait_for(
        "every device is settled",
        lambda: workers.status()["settled"] == plan.devices,
        until,
        listen,
        workers,
    )
    cpu_s, peak_rss = faulty.load()
    load_after = os.getloadavg()[0]
    until_counted = time.monotonic() + COUNTED_S
    while time.monotonic() < until_counted:
        meter.step(0.1)
    counters = meter.counters()
    latencies = np.concatenate(
        [np.frombuffer(found, "f4") for found in workers.ask("latencies", taught)]
    )
    say("reading what the broker retains")
    retained = meter.retained(until)
    say("computing the digest of every device")
    digests: dict[str, str] = {}
    for found in workers.ask("digests"):
        digests |= found
    relay_figures = relay() if relay is not None else None
    network_figures = net.counted() if net is not None else None
    workers.ask("stop")
    return report(
        plan,
        startup_s=startup_s,
        convergence_s=last_applied - last_taught,
        latencies=latencies,
        figures=figures,
        digests=digests,
        expected=expected_digest(plan),
        retained=retained,
        broker={
            "cpu_s": round(cpu_s, 2),
            "cpu_s_while_teaching": round(cpu_s - cpu_before, 2),
            "peak_rss_bytes": peak_rss,
            "kills": faulty.kills,
            "sys": {
                key: value - (0 if faulty.kills else sys_before.get(key, 0))
                for key, value in counters.items()
            },
        },
        relay=relay_figures,
        network=network_figures,
        load=(load_before, load_after),
    )


def expected_digest(plan: Plan) -> str:
    """Of one state that was taught all the rows directly: no fleet, no messages."""
    state = State(plan.scope.space, plan.dim)
    for teach in plan.teaches():
        state.add(id_of_class(teach.class_index), plan.rows(teach.class_index, teach.shot))
    return state.digest()


def report(
    plan: Plan,
    *,
    startup_s: float,
    convergence_s: float,
    latencies: np.ndarray,
    figures: Sequence[dict[str, Any]],
    digests: dict[str, str],
    expected: str,
    retained: dict[str, Any],
    broker: dict[str, Any],
    relay: dict[str, Any] | None,
    network: dict[str, Any] | None,
    load: tuple[float, float],
) -> dict[str, Any]:
    teaches = plan.classes * plan.shots
    due = teaches * (plan.devices - 1)
    wrong = sorted(device for device, one in digests.items() if one != expected)
    refused: Counter[str] = Counter()
    sums: Counter[str] = Counter()
    for one in figures:
        refused.update(one["refused"])
        sums.update(one["figures"])
    ordered = np.sort(latencies)
    return {
        "schema": 1,
        "devices": plan.devices,
        "full_devices": plan.full,
        "classes": plan.classes,
        "shots": plan.shots,
        "teachers_of_a_class": plan.teachers,
        "dim": plan.dim,
        "rate_per_s": plan.rate,
        "relay": plan.relay,
        "tls": plan.tls,
        "shared_checks": plan.share,
        "faults": vars(plan.faults),
        "processes": plan.processes,
        "processors": os.cpu_count(),
        "load_average": [round(one, 2) for one in load],
        "ok": not wrong and len(latencies) == due,
        "equal_digests": not wrong,
        "expected_digest": expected,
        "devices_that_differ": wrong,
        "teaches": teaches,
        "applied": len(latencies),
        "expected_applied": due,
        "startup_s": round(startup_s, 2),
        "convergence_s": round(convergence_s, 3),
        "latency_s": {
            **{
                f"p{p}": round(float(np.percentile(ordered, p)), 3) if len(ordered) else None
                for p in LATENCY_TARGETS
            },
            "max": round(float(ordered[-1]), 3) if len(ordered) else None,
        },
        "late_s": round(max(one["late_s"] for one in figures), 3),
        "snapshot": retained,
        "broker": broker,
        "relay_process": relay,
        "network": network,
        "device_processes": {
            "cpu_s": round(sum(one["cpu_s"] for one in figures), 2),
            "cpu_s_while_teaching": round(sum(one["cpu_s_while_teaching"] for one in figures), 2),
            "peak_rss_bytes": [one["peak_rss_bytes"] for one in figures],
            "messages_refused": dict(refused),
            **dict(sums),
        },
        "digests": dict(sorted(digests.items())),
    }


def text(found: dict[str, Any]) -> str:
    latency, broker = found["latency_s"], found["broker"]
    snapshot = found["snapshot"]
    lines = [
        f"devices            {found['devices']} ({found['full_devices']} with a database), "
        f"{found['processes']} processes, load {found['load_average']}",
        f"taught             {found['teaches']} shots of {found['classes']} classes, "
        f"{found['rate_per_s']:g} a second, {'relay' if found['relay'] else 'mesh'}",
        f"ready after        {found['startup_s']} s",
        f"applied            {found['applied']:,} of {found['expected_applied']:,}",
        f"teach to applied   p50 {latency['p50']} s, p95 {latency['p95']} s, "
        f"p99 {latency['p99']} s, max {latency['max']} s (all of them counted)",
        f"converged          {found['convergence_s']} s after the last teach",
        f"snapshot           {snapshot['bytes_per_class_mean']:,} bytes a class "
        f"(largest {snapshot['bytes_per_class_max']:,}), {snapshot['messages']} messages",
        f"broker             {broker['cpu_s_while_teaching']} s of processor while teaching, "
        f"{broker['peak_rss_bytes'] / 2**20:.1f} MiB at most, killed {broker['kills']} times",
        f"digests            {len(found['digests'])} devices: "
        + (
            "all as if one machine had been taught everything"
            if found["equal_digests"]
            else f"{len(found['devices_that_differ'])} DIFFER"
        ),
        f"                   {found['expected_digest']}",
    ]
    return "\n".join(lines)


def parsed_faults(words: str) -> Faults:
    """``kill=10,partition=0.5,duplicate=0.01,slow=0.1`` in the order in which it pleases."""
    kinds: dict[str, tuple[str, Callable[[str], Any], float]] = {
        "kill": ("kills", int, 1000),
        "partition": ("partition", float, 1),
        "duplicate": ("duplicate", float, 1),
        "slow": ("slow", float, 1),
    }
    given: dict[str, Any] = {}
    for word in filter(None, words.split(",")):
        name, _, value = word.partition("=")
        if name not in kinds:
            raise UsageError(f"no fault {name!r}; there are: {', '.join(kinds)}")
        field, kind, most = kinds[name]
        try:
            given[field] = kind(value)
        except ValueError:
            given[field] = -1
        if not 0 <= given[field] <= most:
            raise UsageError(f"fault {name} is {value!r}; expected 0 to {most:g}")
    return Faults(**given)


def parsed(words: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="tools/fleet_sim",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--devices", type=int, default=50)
    add("--classes", type=int, default=20)
    add("--shots", type=int, default=5, help="of each class")
    add("--teachers", type=int, default=1, help="devices that teach a class between them")
    add("--dim", type=int, default=512)
    add("--rate", type=float, default=100.0, help="teaches a second, by all devices together")
    add("--seconds", type=float, default=300.0, help="the run ends then, with exit code 1")
    add("--faults", default="", help="kill=10,partition=0.5,duplicate=0.01,slow=0.1")
    how = parser.add_mutually_exclusive_group()
    how.add_argument("--relay", action="store_true", default=True, help="(the default)")
    how.add_argument("--mesh", dest="relay", action="store_false", help="without a relay")
    add("--full", type=int, default=0, help="devices with a database, as `accrue` has it")
    add("--processes", type=int, default=0, help="with devices in them; 0: one for each core")
    add("--no-sharing", dest="share", action="store_false", help="each device checks all itself")
    add("--tls", action="store_true")
    add("--seed", type=int, default=0)
    add("--keep", type=Path, help="folder for the broker's files, kept afterwards")
    add("--json", action="store_true")
    found = parser.parse_args(words)
    for name, most in LARGEST.items():
        if not 0 <= getattr(found, name) <= most or (name != "processes" and not vars(found)[name]):
            parser.error(f"--{name}: expected 1 to {most}")
    if not (0 < found.rate <= 10_000 and 0 < found.seconds <= 3600):
        parser.error("--rate: above 0, up to 10000; --seconds: above 0, up to 3600")
    if found.full > found.devices or found.teachers < 1:
        parser.error("--full: at most --devices; --teachers: at least 1")
    return found


def main() -> int:
    args = parsed()
    faults = parsed_faults(args.faults)
    if args.tls and faults.duplicate:
        raise UsageError("what TLS carries cannot be duplicated on the way; leave out one of them")
    plan = Plan(
        devices=args.devices,
        classes=args.classes,
        shots=args.shots,
        teachers=args.teachers,
        dim=args.dim,
        rate=args.rate,
        full=args.full,
        processes=min(args.processes or os.cpu_count() or 1, args.devices),
        relay=args.relay,
        share=args.share,
        tls=args.tls,
        seed=args.seed,
        faults=faults,
    )
    if args.keep is not None:
        shutil.rmtree(args.keep / "broker", ignore_errors=True)
        args.keep.mkdir(parents=True, exist_ok=True)
    found = run(plan, args.seconds, args.keep)
    print(json.dumps({**found}) if args.json else text(found))
    return 0 if found["ok"] else 1


if __name__ == "__main__":
    try:
        sys.exit(main())
    except AccrueError as error:
        sys.exit(f"fleet_sim: {error}")
    except KeyboardInterrupt:
        sys.exit(130)
