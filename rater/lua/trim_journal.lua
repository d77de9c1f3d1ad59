--[[
Purpose: remove the journal lines before one that is in an archive; that line stays, as the link to
the next one. Where the store does not hold that line as it was archived (it fell back to an older
state, say), nothing is removed: by their ids alone the lines before it could be all there are.

KEYS:
  1  STRING  account
  2  STREAM  journal
ARGV:
  1  entry id of the archived line
  2  its sequence number
Returns: how many lines were removed, or Kept
Errors: none
]]
local call = redis.call
local account = call('GET', KEYS[1])
local entry = call('XRANGE', KEYS[2], ARGV[1], ARGV[1])[1]
local seq = tonumber(ARGV[2])
if not account or #account < 72 or string.sub(account, 1, 8) ~= 'RATELac1' or not entry
  or struct.unpack('<i8', account, 9) < seq then
  return 'Kept'
end
for i = 1, #entry[2], 2 do
  if entry[2][i] == 'after' and (#entry[2][i + 1] ~= 48 or struct.unpack('<i8', entry[2][i + 1]) ~= seq) then
    return 'Kept'
  end
end
local removed = call('XTRIM', KEYS[2], 'MINID', '=', ARGV[1])
return removed
