-- Shared by what changes buckets: the list as the account and its journal hold it.
local function pack_buckets(list)
  local parts = {}
  for i = 1, #list do
    parts[i] = struct.pack('<i8', list[i].seconds) .. list[i].terms
  end
  return table.concat(parts)
end
