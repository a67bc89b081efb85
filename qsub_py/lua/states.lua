-- Read the bytes of tasks as a user should see them: what a cancel of the whole job or of an
-- interval says about tasks that were never touched is filled in.
-- KEYS  meta
-- ARGV  job, first, count (32768 of them are answered at most)
-- Returns a string of bytes, or nil when there is no such job. Reads only.
--- @include head job
local j = load(ARGV[1])
if not j then return false end
local first, count = tonumber(ARGV[2]), math.min(tonumber(ARGV[3]), 32768)
local past = math.max(0, math.min(count, first + count - j.cursor))
local waits = j.fate ~= 0 and string.char(j.fate * 16) or '\0'
local out = {}

-- Up to the cursor each task has a byte; a job that was given up gives those that wait its end.
if past < count then
  local bytes = states_of(j.id, first, count - past)
  if j.fate ~= 0 then
    local shown = {}
    for byte = 0, 15 do shown[string.char(byte)] = string.char(j.fate * 16 + byte) end
    for byte = 16, 31 do shown[string.char(byte)] = string.char(byte + 16) end
    bytes = string.gsub(bytes, '[%z\1-\31]', shown)
  end
  out[1] = bytes
end

-- Past it all wait, but for the intervals that were cancelled.
local at, stop = first + count - past, first + count
local cut = past > 0 and intervals(j.id) or {}
for i = 1, #cut do
  local a, b = math.max(cut[i][1], at), math.min(cut[i][2], stop - 1)
  if a <= b then
    out[#out + 1] = string.rep(waits, a - at)
    out[#out + 1] = string.rep(string.char(CA * 16), b - a + 1)
    at = b + 1
  end
end
out[#out + 1] = string.rep(waits, stop - at)
return table.concat(out)
