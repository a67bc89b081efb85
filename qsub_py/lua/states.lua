-- Read the bytes of tasks as a user should see them (`shown` of job.lua).
-- KEYS  meta
-- ARGV  job, first, count (32768 of them are answered at most)
-- Returns a string of bytes, or nil when there is no such job. Reads only.
--- @include head job
local j = load(ARGV[1])
if not j then return false end
return shown(j, tonumber(ARGV[2]), math.min(tonumber(ARGV[3]), 32768))
