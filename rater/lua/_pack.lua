-- Shared by what changes buckets: the list as netstrings (`5:abcde,`), so that a destination id may
-- hold any character.
local function pack_buckets(texts)
  local parts = {}
  for i = 1, #texts do
    parts[i] = #texts[i] .. ':' .. texts[i] .. ','
  end
  return table.concat(parts)
end
