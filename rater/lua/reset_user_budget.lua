--[[
Purpose: set SMS, traffic and minute buckets to the tariff plan's; the credit stays.

KEYS:
  1  HASH    account
  2  STREAM  journal
  3  STRING  token
ARGV:
  1  fingerprint of the request
  2  how long the token lives, ms
  3  deadline on the store's clock, µs; 0 is none
  4  about how many journal lines are kept
  5  token, for the journal
  6  amount, always 0
  7  id of the plan that the following figures are from
  8  1, or 0 when there is no such plan
  9  SMS, micros
  10 traffic, micros
  11… the buckets, as stored: "<seconds> <priority> <price> <destination>"
Returns: OK 0, or Plan <id> when the account has another plan: nothing was decided
Errors:
  NoTariffPlan <id>
  KeyReused
  Expired
  UnknownSubject
]]
--@include _begin.lua
--@include _account.lua
--@include _plan.lua
--@include _pack.lua
local op = 'ResetUserBudget'
if ARGV[8] ~= '1' then
  refusal = 'NoTariffPlan ' .. ARGV[7]
end
--@include _refuse.lua
sms, traffic = ARGV[9], ARGV[10]
local result = '0'
local changes, new = {'seq', seq, 'sms', sms, 'traffic', traffic}, {}
for i = 11, #ARGV do
  new[#new + 1] = ARGV[i]
  changes[#changes + 1] = 'bucket:' .. (i - 11)
  changes[#changes + 1] = ARGV[i]
end
local extra = {'buckets', pack_buckets(new)}
--@include _journal.lua
call('HSET', KEYS[1], unpack(changes))
for i = #new, #buckets - 1 do
  call('HDEL', KEYS[1], 'bucket:' .. i)
end
--@include _finish.lua
