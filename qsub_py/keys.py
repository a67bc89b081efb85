"""Every key in the server, in one place.

All keys share one hash tag and the schema number, so a cluster of keys lives in one slot and
an old schema is never misread. The Lua files build the same names from the prefix they get.

    meta             hash    schema runid epoch job clk served rec_until, caps, saving, ...
    tok:<token>      string  job id a submission with this token made
    j:<id>           hash    one job: spec, counters, flags
    st:<id>          string  one byte a task: state * 16 + min(attempt, 15); grows as it goes
    at:<id>          hash    position -> attempt, where it is above 14
    ct:<id>          hash    position -> "crashes:last attempt lost with its keeper or runner"
    again:<id>       list    "first:count" of positions to run again
    again:<id>:<c>   list    the same of tasks that need what class c has (retry.lua)
    rt:<id>          hash    position -> "retries:requeues:class" of tasks that were tried again
    later:<id>       zset    position -> ms its next attempt may begin
    on:<id>          hash    node uid -> batches of the job it holds
    unfit:<id>       hash    node uid -> why the job cannot start there
    grids:<id>       stream  one entry a grid that a sweep was given later; ID first position + 1
    args:<id>        stream  one entry a chunk of calls; its ID is first position + 1
    res:<id>         stream  one entry a finish batch; its ID is the entry number
    rx:<id>          string  4 bytes a task: number of the entry with its result
    tail:<id>        hash    position -> last bytes of its output
    files:<id>       hash    position -> signed note on the files it brought back
    deps:<id>        hash    number -> condition that the job waits for (lua/lib/deps.lua)
    kids:<id>        zset    "child:number" of conditions on the whole job -> child
    in:<id>          stream  what groups of its tasks need of other tasks
    uses:<id>        zset    which groups, or conditions, need tasks of it -> position
    ptr:<id>         hash    position -> how many of its many inputs are there
    same:<sha1>      zset    singletons of one owner and name -> job id
    blobs:<id>       set     blobs that belong to the job
    blob:<name>      hash    piece number -> up to 1 MiB
    refs             hash    blob of shipped files -> how many jobs need it
    s:<id>           hash    one schedule: spec, rule, counters (schedule.lua)
    fires:<id>       zset    job of a schedule -> ms it was due; the last hundred
    waits:<id>       list    times that wait for the firing before them to end
    schedules        zset    schedule id -> id
    schedules_ended  zset    schedule id -> ms it ended
    beats            zset    schedule id -> ms it fires next
    lanes            zset    lane -> rank of its head (lower runs first)
    lane:<lane>      zset    job id, or "id:class" -> rank
    active, ended    zset    job id -> id, job id -> ms it ended
    limits           hash    "license:<name>" -> how many there are, "owner:<name>" -> most cpus
    lic_used         hash    licence -> how many batches hold
    lic_wait:<name>  set     lanes that were passed over for want of it
    own:<owner>      hash    cpus held now, cpu seconds used (halved each week) at ms, waits
    own_wait:<owner> set     lanes that were passed over because of the owner's cap
    rate:<rate>      string  ms at which the next task of "name:tasks/ms" may start (expires)
    rate_due         zset    lane that waits for its rate -> ms it may go on
    open             zset    open job id -> served ms its client's lease ends
    due              zset    job id -> ms it may begin, or its next retry may
    todo             list    fan-outs that are not finished
    nodes            zset    node uid -> served ms its lease ends
    names            hash    node name -> uid
    node:<uid>       hash    one node: what it has, what is free, its last request
    slots:<uid>      hash    slot -> the batch it runs
    orders:<uid>     hash    sequence number -> order (JSON), until acknowledged
    inbox:<uid>      list    a hint that there is something to claim or obey
    idle             zset    nodes that wait for work
    lapsing          set     lapsed nodes that still hold batches
    rec              set     nodes that must reconcile before a recovery is over
    acct:<day>       hash    owner -> what its tasks used on that day (account.lua); 400 days
    log:<name>       stream  a live log somebody follows (expires)
"""

from __future__ import annotations

SCHEMA = 1


class Keys:
    """The key names of one cluster."""

    def __init__(self, cluster: str) -> None:
        self.prefix = f"{{qsub:{cluster}}}:{SCHEMA}:"
        self.meta = self.prefix + "meta"
        self.nodes = self.prefix + "nodes"

    def job(self, job: int) -> str:
        return f"{self.prefix}j:{job}"

    def states(self, job: int) -> str:
        return f"{self.prefix}st:{job}"

    def args(self, job: int) -> str:
        return f"{self.prefix}args:{job}"

    def grids(self, job: int) -> str:
        return f"{self.prefix}grids:{job}"

    def results(self, job: int) -> str:
        return f"{self.prefix}res:{job}"

    def result_index(self, job: int) -> str:
        return f"{self.prefix}rx:{job}"

    def inputs(self, job: int) -> str:
        return f"{self.prefix}in:{job}"

    def conditions(self, job: int) -> str:
        return f"{self.prefix}deps:{job}"

    def tails(self, job: int) -> str:
        return f"{self.prefix}tail:{job}"

    def files(self, job: int) -> str:
        return f"{self.prefix}files:{job}"

    def blob(self, name: str) -> str:
        return f"{self.prefix}blob:{name}"

    def token(self, token: str) -> str:
        return f"{self.prefix}tok:{token}"

    def inbox(self, node: str) -> str:
        return f"{self.prefix}inbox:{node}"

    def orders(self, node: str) -> str:
        return f"{self.prefix}orders:{node}"

    def log(self, name: str) -> str:
        return f"{self.prefix}log:{name}"
