-- Let a held job go.
-- KEYS  meta
-- ARGV  job
-- Returns 1, 0 when it had ended, -1 when there is no such job. Replay: released is released.
--- @include head job node
local j = load(ARGV[1])
if not j then return -1 end
if j.ended ~= 0 then return 0 end
tick()
j.held = 0
redis.call('HDEL', key('j', j.id), 'held_why')
settle(j)
offer(j)
return 1
