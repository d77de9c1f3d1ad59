--[[
Purpose: create an account; one that exists is kept as it is, or replaced when told to. A replaced
account's journal goes on with the next sequence number, and it stays blocked if it was. A key that holds something else is an error, and
stays as it is.

KEYS:
  1  STRING  account
  2  STREAM  journal
ARGV:
  1  1 to replace an account that exists, else 0; 2 for 0 to those who wait for copies of it: they wait for
     what their connection writes, so some of one that is kept is written as it is
  2  about how many journal lines are kept
  3  token, for the journal
  4  what the account is to hold, with any sequence number
Returns: Opened, Replaced or Kept
Errors: none
]]
local call = redis.call
local MAGIC = 'RATELac1' -- of a value that is an account, in this format
local known = call('GET', KEYS[1])
local op, outcome, seq = 'Open', 'Opened', 1
local blocked = false
if known then
  if #known < 72 or string.sub(known, 1, 8) ~= MAGIC then
    return {err = 'ERR the account holds something else'}
  end
  if ARGV[1] == '0' then
    return 'Kept'
  end
  op, outcome, seq = 'Load', 'Replaced', struct.unpack('<i8', known, 9) + 1
  if ARGV[1] == '2' then
    outcome = 'Kept'
  end
  blocked = string.byte(known, 66) > 1
end
local new = MAGIC .. struct.pack('<i8', seq) .. string.sub(ARGV[4], 17)
local flags = string.byte(new, 66)
if blocked and flags < 2 then
  new = string.sub(new, 1, 65) .. string.char(flags + 2) .. string.sub(new, 67)
end
local plan_size = struct.unpack('<I4', new, 69)
if outcome == 'Kept' then
  call('SETRANGE', KEYS[1], 0, MAGIC) -- as it is
else
  -- First what a store without memory refuses: it lets a script go on that has begun to write.
  call('XADD', KEYS[2], 'MAXLEN', '~', ARGV[2], '*', 'did', op .. ' 0 ' .. ARGV[3],
    'after', string.sub(new, 9, 56), 'buckets', string.sub(new, 73 + plan_size))
  call('SET', KEYS[1], new)
end
return outcome
