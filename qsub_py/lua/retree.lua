-- Run the tasks of a job that failed again, and whatever was given up because of them. A job that
-- was itself given up for what it depends on is looked at anew.
-- KEYS  meta
-- ARGV  job, mask of state codes ("|4|6|")
-- Returns {'ok', unfinished fan-outs}; {'gone'}; {'fate'} when the whole job was given up otherwise,
--         and some of it has not ended yet.
-- Replay: the tasks are pending, which no mask names; what waits is not given up.
--- @include head job node batch deps todo
local j = load(ARGV[1])
if not j then return {'gone'} end
if j.fate ~= 0 and j.ended == 0 then return {'fate'} end
tick()
if j.fate == DF then
  met[j.id] = j
  rearm(j)
  write_down()
else
  if j.fate ~= 0 then push_todo('lift', j.id, 0, j.n - 1, '0' .. ARGV[2])
  else push_todo('requeue', j.id, 0, j.n - 1, ARGV[2]) end
  push_todo('rearm', j.id, 0, 0, '')
end
return {'ok', do_todo()}
