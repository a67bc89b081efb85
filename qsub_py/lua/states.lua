-- Read the bytes of tasks as a user should see them: what a cancel of the whole job or of an
-- interval says about tasks that were never touched is filled in.
-- KEYS  meta
-- ARGV  job, first, count (at most 65536)
-- Returns a string of `count` bytes, or nil when there is no such job. Reads only.
--- @include head job
local j = load(ARGV[1])
if not j then return false end
local first, count = tonumber(ARGV[2]), math.min(tonumber(ARGV[3]), 65536)
local s = states_of(j.id, first, count)
local cut = intervals(j.id)
if j.fate == 0 and #cut == 0 then return s end
local out = {}
for i = 1, #s do
  local byte = string.byte(s, i)
  if byte < 16 then
    local pos = first + i - 1
    for k = 1, #cut do
      if byte < 16 and pos >= j.cursor and cut[k][1] <= pos and pos <= cut[k][2] then byte = CA * 16 end
    end
    if byte < 16 and j.fate ~= 0 then byte = j.fate * 16 + byte end
  elseif j.fate ~= 0 and byte < 32 then byte = byte + 16 end
  out[i] = string.char(byte)
end
return table.concat(out)
