-- Prepaid calls with FreeSWITCH: run from the dial plan before the bridge,
--   <action application="lua" data="freeswitch.lua authorize"/>
-- and when the call is over,
--   <action application="set" data="api_hangup_hook=lua freeswitch.lua settle ${uuid}"/>
-- It needs mod_curl. Not run by the tests: Debian has no FreeSWITCH package.
local RATEL, TENANT = "http://127.0.0.1:8000", "vdf"
local api = freeswitch.API()

local function ask(method, who, amount, key)
  local header = key and (" append_headers Idempotency-Key:" .. key) or ""
  local url = RATEL .. "/" .. method .. "?" .. who .. "&amount=" .. amount
  local answer = api:executeString("curl " .. url .. header .. " connect-timeout 2 timeout 10")
  return tonumber(answer), answer -- an error is an object, and no number
end

local function who_of(caller, dialled)
  local escape = function(text)
    return (text:gsub("[^%w]", function(c) return string.format("%%%02X", c:byte()) end))
  end
  return "cstmid=" .. TENANT .. "&subj=" .. escape(caller) .. "&dest=" .. escape(dialled)
end

if argv[1] == "authorize" then
  local caller, dialled = session:getVariable("caller_id_number"), session:getVariable("destination_number")
  local granted, answer = ask("getmaxsessiontime", who_of(caller, dialled), 3600)
  if not granted then
    freeswitch.consoleLog("WARNING", "not authorized: " .. answer .. "\n")
    session:hangup("NETWORK_OUT_OF_ORDER")
  elseif granted <= 0 then
    session:hangup("OUTGOING_CALL_BARRED")
  else
    session:execute("sched_hangup", "+" .. math.floor(granted) .. " ALLOTTED_TIMEOUT")
  end
else
  local uuid = argv[2]
  local value = function(name) return api:executeString("uuid_getvar " .. uuid .. " " .. name) end
  local seconds = tonumber(env:getHeader("billsec") or "0") or 0
  if seconds > 0 then -- under the call's own id: taken once, however often this runs
    local done, answer = ask("debitseconds", who_of(env:getHeader("caller_id_number") or value("caller_id_number"),
      env:getHeader("destination_number") or value("destination_number")), seconds, uuid)
    if not done then
      freeswitch.consoleLog("ERR", "call " .. uuid .. ", " .. seconds .. " s, not debited: " .. answer .. "\n")
    end
  end
end
