-- Hold a job: nothing more of it starts; what runs goes on.
-- KEYS  meta
-- ARGV  job
-- Returns 1, 0 when it had ended, -1 when there is no such job. Replay: held is held.
--- @include head job node
local j = load(ARGV[1])
if not j then return -1 end
if j.ended ~= 0 then return 0 end
tick()
j.held = 1
settle(j)
return 1
