-- Give a sweep more points: tasks first..first+count-1, whose parameters are those of one more grid.
-- The job is active again when it had ended.
-- KEYS  meta
-- ARGV  job, uid, first, count, grid (JSON), signature, blob with its rows or ''
-- Returns {'ok', tasks now}; {'gone'} no such job; {'single'} it is no sweep; {'fate'} it was given
--         up as a whole; {'corr'} its tasks wait for those of another job (aftercorr); {'full'};
--         {'gap', tasks now} when others added tasks meanwhile.
-- Replay: this grid (by its signature) stands at `first` already.
--- @include head job node blob

local j = load(ARGV[1])
if not j or j.uid ~= ARGV[2] then return {'gone'} end
local first, count = tonumber(ARGV[3]), tonumber(ARGV[4])
local number = string.format('%.0f-0', first + 1)
local there = redis.call('XRANGE', key('grids', j.id), number, number)[1]
if there and there[2][6] == ARGV[6] then return {'ok', j.n} end
if redis.call('HGET', key('j', j.id), 'sweep') ~= '1' then return {'single'} end
if j.fate ~= 0 then return {'fate'} end
if j.gate == 2 then return {'corr'} end
if first ~= j.n then return {'gap', j.n} end
if is_full() then return {'full'} end
tick()
keep_blobs(j, ARGV[7])
redis.call('XADD', key('grids', j.id), number, 'n', count, 'd', ARGV[5], 's', ARGV[6], 'b', ARGV[7])
j.n = first + count
settle(j)
offer(j)
return {'ok', j.n}
