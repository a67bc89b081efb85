"""What the whole cluster counts, on hosts that die: schedules, licences, caps, rates, retries."""

from __future__ import annotations

from typing import Any

import pytest

from lab import Lab
from lab_cluster import SAY, Cluster, Line
from waiting import wait_until

pytestmark = pytest.mark.timeout(240)


#: What hosts have that qsub --constraint asks for; h1 is told on the command line.
HOSTS = """
[defaults]
cpus = 2
features = ["big"]
[hosts.h2]
features = ["big", "fast"]
[hosts.h3]
"""


@pytest.fixture
def cluster(lab3: Lab) -> Cluster:
    """Return three nodes of two cpus whose leases are short: h2 and h3 big, h1 and h2 fast."""
    made = Cluster(lab3, lease_s=4)
    (made.head.home / "work/hosts.toml").write_text(HOSTS)
    made.start("-f", "hosts.toml")
    made.start("--cpus", "2", "--features", "fast", "h1")
    return made


@pytest.fixture
def plain(lab3: Lab) -> Cluster:
    """Return three nodes of two cpus."""
    made = Cluster(lab3, lease_s=10)
    made.start("--cpus", "2", *lab3.hosts)
    return made


def most_at_once(lines: list[Line]) -> int:
    """Return how many attempts ran at the same time, by what they wrote themselves."""
    spans: dict[tuple[int, int, int], list[float]] = {}
    for line in lines:
        spans.setdefault((line.job, line.task, line.attempt), []).append(line.uptime)
    return max(
        sum(other[0] <= span[0] <= other[-1] for other in spans.values()) for span in spans.values()
    )


HOUR_MS = 3600 * 1000

# -- again and again ---------------------------------------------------------------------------


def schedule(cluster: Cluster, number: int) -> dict[str, Any]:
    found = cluster.listed("qstat", "--periodic", "-a")
    return next(row for row in found if row["id"] == number)


def fired(cluster: Cluster, name: str) -> dict[float, set[int]]:
    """Return which jobs ran for each due time, by what they wrote on their hosts."""
    found: dict[float, set[int]] = {}
    for host in cluster.lab.hosts.values():
        path = host.home / name
        for line in path.read_text().splitlines() if path.exists() else []:
            due, job = line.split()
            found.setdefault(float(due), set()).add(int(job))
    return found


def submit_periodic(cluster: Cluster, name: str, *words: str) -> int:
    line = f"echo $QSUB_DUE_AT $QSUB_JOB_ID >> ~/{name}"
    return cluster.qsub("-J", name, *words, "--wrap", line)


def more_fired(cluster: Cluster, number: int, count: int = 2) -> None:
    before = schedule(cluster, number)["fired"]
    wait_until(lambda: schedule(cluster, number)["fired"] >= before + count, what="it goes on")


def check_schedule(cluster: Cluster, number: int, since: dict[str, Any]) -> None:
    """All due times were fired or missed, since a look at the schedule, and no one twice."""
    cluster.run("qcancel", number)
    one = schedule(cluster, number)
    wait_until(lambda: len(fired(cluster, one["name"])) == one["fired"], timeout_s=60,
               what="all have run")  # fmt: skip
    due = fired(cluster, one["name"])
    assert {len(jobs) for jobs in due.values()} == {1}, "a time was fired twice"
    assert {round(at % 1, 3) for at in due} == {round(one["last_due_at"] % 1, 3)}
    counted = [one[what] - since[what] for what in ("fired", "missed")]
    assert sum(counted) == round(one["last_due_at"] - since["last_due_at"]), counted


def test_each_due_time_once(plain: Cluster) -> None:
    number = submit_periodic(plain, "due", "--every", "1s", "--overlap", "allow")
    hourly = [submit_periodic(plain, name, "--every", "1h", "--catch-up", name)
              for name in ("one", "none")]  # fmt: skip
    more_fired(plain, number, 1)
    since = schedule(plain, number)
    # Whoever fires next: all agents die, h2 for good, and for a moment nobody hears the server.
    for host in ("h1", "h3", "h2"):
        plain.kill_part(host, "agent")
        more_fired(plain, number, 1)
    plain.lab["h2"].kill()
    more_fired(plain, number, 1)
    plain.head.cut()
    plain.wait_time(2.5)
    plain.head.heal()
    more_fired(plain, number)
    check_schedule(plain, number, since)
    check_catching_up(plain, *hourly)


def check_catching_up(cluster: Cluster, one: int, none: int) -> None:
    """Hours pass that no node sees: the clock of the cluster says so."""
    first = round(schedule(cluster, none)["last_due_at"] * 1000)

    def counts(number: int) -> tuple[int, int]:
        told = schedule(cluster, number)
        return told["fired"], told["missed"]

    cluster.command("SET", "test_now", first + int(2.5 * HOUR_MS))
    wait_until(lambda: (counts(one), counts(none)) == ((2, 1), (1, 2)), what="one for all, or none")
    cluster.command("SET", "test_now", first + int(3.1 * HOUR_MS))
    wait_until(lambda: (counts(one), counts(none)) == ((3, 1), (1, 3)), what="the same again")


# -- limits ------------------------------------------------------------------------------------


def used(cluster: Cluster, name: str) -> int:
    """Return how much of a limit is in use; never more than there is."""
    row = next(row for row in cluster.listed("qnode", "limits") if row["name"] == name)
    assert 0 <= row["used"] <= row["total"], row
    return int(row["used"])


def started(cluster: Cluster, job: int) -> list[float]:
    return sorted(task["started_at"] for task in cluster.tasks(job))


def submit_to_places(cluster: Cluster) -> dict[int, set[str]]:
    """Ask for features of the command line and of hosts.toml; return which nodes are right."""
    asked = {"big&fast": {"h2"}, "fast": {"h1", "h2"}, "big|fast": {"h1", "h2", "h3"}}
    return {cluster.qsub("-a", "1-4", "-C", words, "true"): nodes for words, nodes in asked.items()}


def check_wide(cluster: Cluster) -> None:
    """A wide job starts before the narrow ones which came after it are through."""
    cluster.submit_ledger(6, beats=4)
    wide = cluster.qsub("-c", 2, "script", 1)
    narrow = cluster.submit_ledger(18, beats=2)
    cluster.wait_completed(narrow)
    began = cluster.ledger(wide)[0].uptime
    starts = [line.uptime for line in cluster.ledger(narrow) if line.what == "start"]
    assert sum(at > began for at in starts) >= 6


def test_limits_hold_while_a_host_is_lost(cluster: Cluster) -> None:
    places = submit_to_places(cluster)
    words = ["-f", "-D", "/", "-C", "fast", "-x", "h2", "hostname"]
    assert cluster.run("qsub", *words).stdout == "h1\n"
    check_wide(cluster)
    cluster.run("qnode", "limits", "license:seat=3", "owner:*=5")
    # A task that is lost with its host, then fails once: the loss is none of its one retry.
    line = SAY + "say start; [ $QSUB_ATTEMPT != 1 ] || beat 999; say end; [ $QSUB_ATTEMPT != 2 ]\n"
    (cluster.head.home / "work/fails").write_text(line)
    cluster.run("qnode", "drain", "h3")
    fails = cluster.qsub("-x", "h2", "--retries", 1, "--backoff", "0", "fails")
    seats = cluster.qsub("-a", "1-8", "-x", "h3", "-L", "seat", "script", 5)
    cluster.wait_ledger(lambda lines: {(fails, "h1"), (seats, "h1")} <= {
        (line.job, line.host) for line in lines}, what="both run on h1")  # fmt: skip
    cluster.lab["h1"].kill()
    cluster.run("qnode", "resume", "h3")
    rated = cluster.qsub("-a", "1-6", "--rate", "2/s", "script", 5)
    wait_until(lambda: used(cluster, "seat") <= 3 and cluster.job(seats)["ended_at"], timeout_s=60)
    cluster.run("qwait", fails, seats, rated, timeout=90)
    for job in (seats, rated):
        cluster.check_ledger(job, most_attempts=2)
    assert [task["attempt"] for task in cluster.tasks(fails)] == [3]
    limited = [line for line in cluster.ledger() if line.job >= fails]
    assert most_at_once(limited) <= 5
    assert most_at_once([line for line in limited if line.job == seats]) <= 3
    times = started(cluster, rated)
    # Two may be made up for.
    assert times[-1] - times[0] >= 1.9
    assert used(cluster, "seat") == 0
    cluster.run("qwait", *places)
    for task in cluster.tasks(*places):
        assert task["node"] in places[task["job"]]


# -- suspended, altered, counted -----------------------------------------------------------------

#: Needs 90 MB: more than it gets at first.
HOG = "import time; x = b'x' * (90 << 20); time.sleep({})"


def submit_hogs(cluster: Cluster) -> tuple[int, int]:
    """Return a job that dies of its memory limit, and one that is given more."""
    words = ["-w", "h3", "--mem", "64M"]
    dies = cluster.qsub(*words, "--", "python3", "-c", HOG.format(60))
    grows = cluster.qsub(*words, "--on-oom", "mem*2", "--backoff", "0", "--", "python3", "-c",
                         HOG.format(2))  # fmt: skip
    return dies, grows


def check_hogs(cluster: Cluster, dies: int, grows: int) -> None:
    assert cluster.run("qwait", dies, check=False).returncode == 137
    [task] = cluster.tasks(dies)
    assert task["state"] == "OUT_OF_MEMORY" and task["max_rss_bytes"] > 64 << 20
    cluster.wait_completed(grows)
    assert [task["attempt"] for task in cluster.tasks(grows)] == [2]


def wait_begun(cluster: Cluster, job: int, tasks: int) -> None:
    """Wait until tasks have begun; what has only been handed out goes back with its agent."""
    wait_until(lambda: len({line.task for line in cluster.ledger(job)}) == tasks, what="all begin")


def stands_still(cluster: Cluster, *hosts: str) -> bool:
    """Whether all of the jobs' processes on these hosts are stopped."""
    found = [p.state for h in hosts for p in cluster.lab[h].processes("ann") if "script" in p.argv]
    return set(found) == {"T"}


def check_suspended(cluster: Cluster) -> int:
    """Stop the tasks of two hosts, each of which loses its agent, and let them go on."""
    job = cluster.submit_ledger(4, beats=12, options=("-x", "h3", "-t", "1m"))
    wait_begun(cluster, job, 4)
    cluster.kill_part("h1", "agent")
    cluster.run("qsuspend", job)
    wait_until(lambda: stands_still(cluster, "h1", "h2"), what="all stand still")
    before = cluster.ledger(job)
    told = cluster.job(job)
    assert (told["state"], told["tasks"]["suspended"]) == ("SUSPENDED", 4)
    # The agent that comes wakes nothing.
    cluster.run("qalter", job, "-t", "2m")
    cluster.kill_part("h2", "agent")
    cluster.wait_time(2)
    assert cluster.ledger(job) == before and stands_still(cluster, "h1", "h2")
    cluster.run("qresume", job)
    cluster.wait_completed(job)
    cluster.check_ledger(job, most_attempts=1)
    return job


def check_fragile(cluster: Cluster) -> int:
    """A task whose keeper dies three times is given up, unless that is a reason to try again."""
    line = SAY + "say start; [ $QSUB_ATTEMPT -gt 3 ] || beat 999; say end\n"
    (cluster.head.home / "work/fragile").write_text(line)
    job = cluster.qsub("-w", "h3", "--retry-on", "node", "--backoff", "0", "fragile")
    for number in (1, 2, 3):
        cluster.wait_ledger(lambda lines, n=number: (job, n) in [
            (line.job, line.attempt) for line in lines], what=f"attempt {number}")  # fmt: skip
        cluster.kill_part("h3", "keeper")
    cluster.wait_completed(job)
    cluster.check_ledger(job)
    return job


def check_limit(cluster: Cluster) -> int:
    """Lower the limit of what runs on two hosts, one of which has just lost its agent."""
    job = cluster.qsub("-a", "1-2", "-c", 2, "-x", "h3", "-t", "1h", "script", 999)
    wait_begun(cluster, job, 2)
    cluster.kill_part("h2", "agent")
    cluster.run("qalter", job, "-t", "1s")
    assert cluster.run("qwait", job, check=False).returncode == 124
    assert {(task["node"], task["state"]) for task in cluster.tasks(job)} == {
        ("h1", "TIMEOUT"), ("h2", "TIMEOUT"),
    }  # fmt: skip
    return job


def check_accounts(cluster: Cluster, ended: dict[int, tuple[int, int]]) -> None:
    """What was used: by job (how many ended, and completed), and by owner and day."""
    rows = {row["id"]: row for row in cluster.listed("qacct", *ended)}
    tasks = cluster.tasks(*ended)
    for job, counts in ended.items():
        row, ours = rows[job], [task for task in tasks if task["job"] == job]
        assert (row["ended_tasks"], row["completed_tasks"]) == counts
        for field in ("wall_s", "cpu_s"):
            assert row[field] == pytest.approx(sum(task[field] for task in ours), abs=0.01)
        assert row["max_rss_bytes"] == max(task["max_rss_bytes"] for task in ours)
    for words in ("--owners", "--days"):
        found = cluster.listed("qacct", words)
        assert sum(one["tasks"] for one in found) == sum(n for n, _ in ended.values())
        assert sum(one["failed"] for one in found) == sum(n - m for n, m in ended.values())
        wall_s = sum(row["wall_s"] for row in rows.values())
        assert sum(one["wall_s"] for one in found) == pytest.approx(wall_s, abs=0.1)


def test_suspended_altered_and_counted(plain: Cluster) -> None:
    dies, grows = submit_hogs(plain)
    stopped = check_suspended(plain)
    check_hogs(plain, dies, grows)
    fragile, limited = check_fragile(plain), check_limit(plain)
    check_accounts(plain, {dies: (1, 0), grows: (1, 1), stopped: (4, 4), fragile: (1, 1),
                           limited: (2, 0)})  # fmt: skip
