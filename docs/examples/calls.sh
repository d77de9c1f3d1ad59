#!/bin/sh
# The HTTP interface with curl.
#
#   sh calls.sh http://127.0.0.1:8000
set -eu
base=${1:-http://127.0.0.1:8000}
who='cstmid=vdf&subj=rif&dest=0256308200'

printf 'may talk, seconds: '
curl -sS "$base/getmaxsessiontime?$who&amount=3600"
printf '\ncost, cents: '
curl -sS "$base/getcost?$who&start=2012-02-02T17:30:00Z&end=2012-02-02T18:30:00Z" |
    sed 's/.*"Cost":\([0-9.]*\),"ConnectFee".*/\1/'
echo

key="curl-$$-$(date +%s)"
left=$(curl -sS -H "Idempotency-Key: $key" "$base/debitbalance?$who&amount=1.5")
again=$(curl -sS -H "Idempotency-Key: $key" "$base/debitbalance?$who&amount=1.5")
[ "$left" = "$again" ] && echo 'repeated, the same credit is left: true'

printf 'refused: '
curl -sS "$base/debitbalance?cstmid=vdf&subj=nobody&dest=0256&amount=1" | sed 's/.*"name":"\([a-z_]*\)".*/\1/'
