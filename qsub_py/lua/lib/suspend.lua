-- Suspended: the whole job (`susp`), of which nothing more starts, or tasks that ran when they were
-- (`sx`, "a-b,c-d"); one of these that starts anew is not suspended any more.

local function read_ranges(text)
  local list = {}
  for a, b in string.gmatch(text, '(%d+)-(%d+)') do list[#list + 1] = {tonumber(a), tonumber(b)} end
  return list
end

local function write_ranges(list)
  local words = {}
  for i = 1, #list do words[i] = string.format('%.0f-%.0f', list[i][1], list[i][2]) end
  return table.concat(words, ',')
end

local function without(list, from, to)
  local kept = {}
  for i = 1, #list do
    local a, b = list[i][1], list[i][2]
    if b < from or a > to then kept[#kept + 1] = {a, b} end
    if a < from and b >= from then kept[#kept + 1] = {a, from - 1} end
    if b > to and a <= to then kept[#kept + 1] = {to + 1, b} end
  end
  return kept
end

local function begin_anew(j, first, count)
  if j.sx ~= '' then j.sx = write_ranges(without(read_ranges(j.sx), first, first + count - 1)) end
end
