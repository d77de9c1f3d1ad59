--[[
Purpose: set SMS, traffic and minute buckets to the tariff plan's; the credit stays.

KEYS: for each request three
  1  STRING  account
  2  STREAM  journal
  3  STRING  token
ARGV: first one for all, then for each request ten
  1  about how many journal lines are kept
  2  amount, always 0
  3  destination without control characters: with method and amount the request's fingerprint
  4  how long the token lives, ms
  5  deadline on the store's clock, µs; 0 is none
  6  id of the plan that the following figures are from
  7  1, or 0 when there is no such plan
  8  SMS, micros
  9  traffic, micros
  10 how many buckets
  11 the buckets, as stored
Returns: a list, for each request one: OK 0, or Plan <id> when the account has another plan: nothing
was decided
Errors: in the place of the request
  NoTariffPlan <id>
  KeyReused
  Expired
  UnknownSubject
]]
local OP, WORDS = 'ResetUserBudget', 10
--@include _begin.lua
--@include _buckets.lua
--@include _plan.lua
    if ARGV[at + 5] ~= '1' then
      refusal = 'NoTariffPlan ' .. plan
    end
--@include _refuse.lua
    sms, traffic, count = tonumber(ARGV[at + 6]), tonumber(ARGV[at + 7]), tonumber(ARGV[at + 8])
    local packed = ARGV[at + 9]
    local result, extra, behind = '0', {'buckets', packed}, ''
--@include _rest.lua
--@include _journal.lua
--@include _commit.lua
    save()
    account = nil -- its buckets are others now
--@include _finish.lua
