--[[
Purpose: remove the journal lines before one that is in an archive; that line stays, as the link to
the next one. Where the store does not hold that line as it was archived (it fell back to an older
state, say), nothing is removed: by their ids alone the lines before it could be all there are.

KEYS:
  1  HASH    account
  2  STREAM  journal
ARGV:
  1  entry id of the archived line
  2  its sequence number
Returns: how many lines were removed, or Kept
Errors: none
]]
local call = redis.call
local seq = call('HGET', KEYS[1], 'seq')
local entry = call('XRANGE', KEYS[2], ARGV[1], ARGV[1])[1]
if not seq or tonumber(seq) < tonumber(ARGV[2]) or not entry then
  return 'Kept'
end
for i = 1, #entry[2], 2 do
  if entry[2][i] == 'seq' and entry[2][i + 1] ~= ARGV[2] then
    return 'Kept'
  end
end
local removed = call('XTRIM', KEYS[2], 'MINID', '=', ARGV[1])
return removed
