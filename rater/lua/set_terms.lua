--[[
Purpose: change what an operator decides about an account: its type, floor, reset day, tariff plan, and
whether it is blocked. Balances and buckets stay. What is told to stay is given as an empty text.

KEYS: for each request three
  1  STRING  account
  2  STREAM  journal
  3  STRING  token
ARGV: first one for all, then for each request nine
  1  about how many journal lines are kept
  2  amount, always 0
  3  the terms as text, without control characters: with method and amount the request's fingerprint
  4  how long the token lives, ms
  5  deadline on the store's clock, µs; 0 is none
  6  1 for postpaid, 0 for prepaid
  7  the floor, micros, or none
  8  day of the month for the reset, 0 is none
  9  the plan's id behind an equals sign
  10 1 to block, 0 to unblock
Returns: a list, for each request one: OK 1000000 when something has changed, or OK 0 when it was so already,
which is no line in the journal
Errors: in the place of the request
  KeyReused
  Expired
  UnknownSubject
]]
local OP, WORDS = 'SetTerms', 9
--@include _begin.lua
--@include _buckets.lua
    local packed, behind = sub(value, 73 + plan_size), ''
    local is_postpaid, is_blocked = postpaid % 2, math.floor(postpaid / 2)
    if ARGV[at + 4] ~= '' then is_postpaid = tonumber(ARGV[at + 4]) end
    if ARGV[at + 5] == 'none' then
      min_credit, has_floor = 0, 0
    elseif ARGV[at + 5] ~= '' then
      min_credit, has_floor = tonumber(ARGV[at + 5]), 1
    end
    if ARGV[at + 6] ~= '' then reset_day = tonumber(ARGV[at + 6]) end
    if ARGV[at + 7] ~= '' then plan = sub(ARGV[at + 7], 2) end
    if ARGV[at + 8] ~= '' then is_blocked = tonumber(ARGV[at + 8]) end
    postpaid, plan_size = is_postpaid + 2 * is_blocked, #plan
--@include _rest.lua
    if behind == sub(value, 57) then
      refusal = 'OK 0' -- nothing is refused: that it was so already is an outcome, and nothing is to be written
    end
--@include _refuse.lua
    local floor = has_floor == 1 and format('%.0f', min_credit) or 'none'
    local kind = is_postpaid == 1 and 'postpaid' or 'prepaid'
    local terms = kind .. ' floor=' .. floor
      .. format(' reset_day=%.0f blocked=%.0f plan=', reset_day, is_blocked) .. plan
    local result, extra = '1000000', {'terms', terms}
--@include _journal.lua
--@include _commit.lua
    save()
    account = nil -- it is read as it is now
--@include _finish.lua
