// The page of the dashboard. It loads nothing but its own JSON; the policy in its header allows this script and this style
// by their hashes, and nothing else. What comes from the database is set as text, never as HTML.

export const dashboardStyle = `
:root { color-scheme: light dark; --ink: #1b1f24; --soft: #626a73; --line: #d8dee4; --ground: #fff; --card: #f6f8fa; --accent: #0b62c4; --bad: #b42318; --warn: #9a6700 }
@media (prefers-color-scheme: dark) { :root { --ink: #e6edf3; --soft: #9aa4ae; --line: #30363d; --ground: #0d1117; --card: #161b22; --accent: #4c9bf5; --bad: #ff7b72; --warn: #d9a53a } }
* { box-sizing: border-box }
body { margin: 0 auto; max-width: 76rem; padding: 1rem 1.25rem 3rem; background: var(--ground); color: var(--ink); font: 14px/1.45 system-ui, sans-serif }
header { display: flex; flex-wrap: wrap; gap: .5rem 1rem; align-items: center; margin-bottom: 1rem }
h1 { font-size: 1.25rem; margin: 0 auto 0 0 } h2 { font-size: 1rem; margin: 1.75rem 0 .5rem }
#when { color: var(--soft) }
#tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(8.5rem, 1fr)); gap: .6rem }
.tile { background: var(--card); border: 1px solid var(--line); border-radius: 6px; padding: .5rem .75rem }
.tile b { display: block; font-size: 1.45rem; font-variant-numeric: tabular-nums; font-weight: 600 }
.tile span, .soft { color: var(--soft) } .bad { color: var(--bad) } .warn { color: var(--warn) }
#chart { display: block; width: 100%; height: 4.5rem; margin-top: .75rem; background: var(--card); border: 1px solid var(--line); border-radius: 6px }
#chart polyline { fill: none; stroke: var(--accent); stroke-width: 2; vector-effect: non-scaling-stroke }
.scroll { overflow-x: auto } table { border-collapse: collapse; width: 100% }
th, td { text-align: left; padding: .3rem .7rem .3rem 0; border-bottom: 1px solid var(--line); vertical-align: top }
th { color: var(--soft); font-weight: 500; white-space: nowrap } td.n, th.n { text-align: right; font-variant-numeric: tabular-nums }
td.e { max-width: 34rem; overflow-wrap: anywhere } .none { color: var(--soft); padding: .3rem 0 }
button, input { font: inherit; color: inherit; background: var(--card); border: 1px solid var(--line); border-radius: 5px; padding: .15rem .6rem }
button { cursor: pointer; margin-right: .3rem } button:hover { border-color: var(--accent) } button:disabled { opacity: .45; cursor: default }
:focus-visible { outline: 2px solid var(--accent); outline-offset: 1px }
#note { border-left: 3px solid var(--warn); padding: .4rem .75rem; margin: 1rem 0; background: var(--card) } #note[hidden] { display: none }
dialog { background: var(--ground); color: var(--ink); border: 1px solid var(--line); border-radius: 8px; padding: 1.1rem 1.25rem; max-width: 30rem } dialog::backdrop { background: #0008 }
dialog p { margin: 0 0 1rem }
`

export const dashboardScript = `
'use strict'
const EVERY = 3000, KEEP = 100
const $ = (id) => document.getElementById(id)
const number = (n) => n.toLocaleString('en-US')
const make = (name, className, text) => {
  const element = document.createElement(name)
  if (className) element.className = className
  if (text !== undefined) element.textContent = text
  return element
}
const time = (ms) => {
  if (ms === undefined || ms === null) return '–'
  const s = Math.round(ms / 1000)
  return s < 120 ? s + ' s' : s < 7200 ? Math.round(s / 60) + ' min' : s < 172800 ? Math.round(s / 3600) + ' h' : Math.round(s / 86400) + ' d'
}
const clock = (iso) => iso === undefined ? '' : new Date(iso).toLocaleString()
const sum = (list, key) => list.reduce((total, one) => total + one[key], 0)
const history = []
let mayChange = false

async function ask(path, body) {
  const headers = {}
  if (body !== undefined) {
    headers['content-type'] = 'application/json'
    headers['authorization'] = 'Bearer ' + $('token').value
  }
  const response = await fetch(path, { method: body === undefined ? 'GET' : 'POST', headers, body: body && JSON.stringify(body), cache: 'no-store' })
  const answer = await response.json()
  if (!response.ok) throw new Error(answer.message || response.status)
  return answer
}

function say(text, className) {
  $('note').hidden = text === ''
  $('note').className = className || ''
  $('note').textContent = text
}

function confirmed(text) {
  $('question').textContent = text
  const dialog = $('dialog')
  return new Promise((resolve) => {
    const end = (value) => () => { dialog.close(); resolve(value) }
    $('yes').onclick = end(true)
    $('no').onclick = end(false)
    dialog.oncancel = () => resolve(false)
    dialog.showModal()
  })
}

function button(label, title, work) {
  const element = make('button', '', label)
  element.title = mayChange ? title : 'This dashboard was started without a token: it can only be looked at'
  element.disabled = !mayChange
  element.onclick = async () => {
    if ($('token').value === '') { say('Give the token first', 'warn'); $('token').focus(); return }
    element.disabled = true
    try { const done = await work(); if (done) say(done) } catch (error) { say(error.message, 'bad') }
    await refresh()
  }
  return element
}

function redrive(choice, what) {
  return async () => {
    const would = await ask('api/redrive', { ...choice, dryRun: true })
    if (would.count === 0) return 'There is nothing to send back'
    if (!(await confirmed('Send ' + number(would.count) + ' dead letters of ' + what + ' back, as new events?'))) return ''
    const done = await ask('api/redrive', { ...choice, dryRun: false })
    return number(done.count) + ' dead letters of ' + what + ' were sent back'
  }
}

function table(id, columns, rows, none) {
  const place = $(id)
  if (rows.length === 0) return place.replaceChildren(make('div', 'none', none))
  const element = make('table'), head = make('tr')
  for (const [label, kind] of columns) head.append(make('th', kind, label))
  element.append(head)
  for (const row of rows) {
    const line = make('tr')
    row.forEach((cell, index) => {
      const td = make('td', columns[index][1])
      for (const part of Array.isArray(cell) ? cell : [cell]) td.append(part instanceof Node ? part : String(part ?? ''))
      line.append(td)
    })
    element.append(line)
  }
  place.replaceChildren(element)
}

function tile(label, value, className) {
  const element = make('div', 'tile')
  element.append(make('b', className, value), make('span', '', label))
  return element
}

function chart() {
  const width = 1000, height = 100, most = Math.max(1, ...history.map((one) => one.depth))
  const line = history.map((one, index) => ((KEEP - history.length + index) * width / (KEEP - 1)).toFixed(1) + ',' + (height - 6 - one.depth / most * (height - 12)).toFixed(1))
  $('depth').setAttribute('points', line.join(' '))
  $('chart').setAttribute('aria-label', 'Events in the outbox over the last minutes, ' + number(most) + ' at most')
}

function rates(now) {
  const before = history.findLast((one) => now.at - one.at >= 2500 && one.inserted <= now.inserted && one.deleted <= now.deleted)
  if (before === undefined) return ['–', '–']
  const seconds = (now.at - before.at) / 1000
  const rate = (key) => { const value = (now[key] - before[key]) / seconds; return value >= 100 ? number(Math.round(value)) : value.toFixed(1) }
  return [rate('inserted'), rate('deleted')]
}

function show({ stats, mayChange: may }, dead, blocked) {
  mayChange = may
  $('access').hidden = !may
  $('when').textContent = new Date(stats.at).toLocaleTimeString()
  const { types, workers, consumers, table: counted, horizon } = stats
  const depth = sum(types, 'ready') + sum(types, 'delayed') + sum(types, 'claimed') + sum(types, 'suspect')
  const now = { at: Date.parse(stats.at), depth, inserted: counted.inserted, deleted: counted.deleted }
  const [enqueued, gone] = rates(now)
  history.push(now)
  if (history.length > KEEP) history.shift()
  chart()
  const alive = workers.filter((worker) => worker.alive).length
  const oldest = Math.max(-1, ...types.map((type) => type.oldestMs ?? -1))
  const letters = sum(types, 'deadLetters')
  $('tiles').replaceChildren(
    tile('events in the outbox', number(depth)), tile('age of the oldest', oldest < 0 ? '–' : time(oldest), oldest > 60000 ? 'warn' : ''),
    tile('enqueued a second', enqueued), tile('gone a second', gone), tile('being retried', number(sum(types, 'retrying'))),
    tile('dead letters', number(letters), letters > 0 ? 'bad' : ''), tile('workers alive', number(alive), alive === 0 ? 'bad' : ''))
  table('types', [['type'], ['ready', 'n'], ['delayed', 'n'], ['claimed', 'n'], ['suspect', 'n'], ['retrying', 'n'], ['blocked keys', 'n'], ['dead letters', 'n'], ['oldest', 'n'], ['workers', 'n'], ['']],
    types.map((type) => [
      type.paused ? [type.type, ' ', make('span', 'warn', 'paused')] : type.type,
      number(type.ready), number(type.delayed), number(type.claimed), number(type.suspect), number(type.retrying), number(type.blockedKeys),
      type.deadLetters > 0 ? make('span', 'bad', number(type.deadLetters)) : '0', time(type.oldestMs),
      type.workers === 0 ? make('span', 'warn', 'nobody') : number(type.workers),
      [type.paused ? button('resume', 'Let workers take its events again', async () => { await ask('api/resume', { type: type.type }); return type.type + ' was resumed' })
        : button('pause', 'Its events wait; what has begun goes on', async () => { await ask('api/pause', { type: type.type }); return type.type + ' was paused' }),
      ...(type.deadLetters > 0 ? [button('redrive', 'Send its dead letters back as new events', redrive({ type: type.type }, type.type))] : [])],
    ]), 'No events, and nobody who waits for any')
  table('dead', [['id', 'n'], ['type'], ['key'], ['reason'], ['attempts', 'n'], ['died'], ['error', 'e'], ['']],
    dead.map((one) => [one.id, one.type, one.key, one.reason, number(one.attempts), clock(one.endedAt), one.error,
      button('redrive', 'Send this one back as a new event', redrive({ ids: [one.id] }, one.type))]), 'No dead letters')
  table('blocked', [['key'], ['waits for', 'n'], ['type'], ['because'], ['until'], ['events behind it', 'n'], ['error', 'e']],
    blocked.slice(0, 50).map((one) => [one.key, one.id, one.type, one.because, clock(one.until), number(one.waiting), one.error]), 'No key is blocked')
  table('consumers', [['name'], ['events behind', 'n'], ['oldest', 'n'], ['attempts', 'n'], ['next attempt'], ['error', 'e'], ['types', 'e']],
    consumers.map((one) => [one.name, number(one.lagEvents), one.lagEvents === 0 ? '–' : time(one.lagSeconds * 1000), number(one.attempts), clock(one.retryAt), one.lastError, one.types.join(', ')]), 'No consumer')
  table('workers', [['id', 'n'], ['name'], ['alive'], ['idle'], ['claimed', 'n'], ['known by'], ['since'], ['types', 'e']],
    workers.map((worker) => [worker.id, worker.name, worker.alive ? 'yes' : make('span', 'bad', 'no'), worker.idle ? 'yes' : 'no', number(worker.claimed), worker.presence, clock(worker.startedAt), worker.types.join(', ')]), 'No worker')
  const held = horizon !== undefined && horizon.ageMs > 60000
  $('table').textContent = number(counted.deadTuples) + ' rows of the table of events are gone and not vacuumed yet' +
    (held ? ': the ' + horizon.holder + ' "' + horizon.name + '"' + (horizon.pid === undefined ? '' : ', pid ' + horizon.pid + ',') + ' holds a snapshot for ' + time(horizon.ageMs) : '')
  $('table').className = held && counted.deadTuples > 100000 ? 'warn' : 'soft'
}

let failing = false
async function refresh() {
  try {
    const [stats, dead, blocked] = await Promise.all([ask('api/stats'), ask('api/events?state=dead&limit=50'), ask('api/blocked-keys')])
    show(stats, dead, blocked)
    if (failing) say('')
    failing = false
  } catch (error) {
    failing = true
    say('The outbox cannot be read: ' + error.message, 'bad')
  }
}

async function again() {
  // What is being pressed or answered is not redrawn.
  if (!document.hidden && !$('dialog').open) await refresh()
  setTimeout(again, EVERY)
}
$('access').onsubmit = (event) => event.preventDefault()
again()
`

export const dashboardPage: string = `<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Outbox</title>
<link rel="icon" href="data:,">
<style>${dashboardStyle}</style>
</head>
<body>
<header>
<h1>Outbox</h1>
<span id="when"></span>
<form id="access" hidden autocomplete="off"><label>Token <input id="token" type="password" autocomplete="off" size="18"></label></form>
</header>
<div id="note" role="status" hidden></div>
<main>
<section id="tiles" aria-label="In short"></section>
<svg id="chart" role="img" viewBox="0 0 1000 100" preserveAspectRatio="none"><polyline id="depth" points=""></polyline></svg>
<h2>Types</h2><div id="types" class="scroll"></div>
<h2>Dead letters</h2><div id="dead" class="scroll"></div>
<h2>Blocked keys</h2><div id="blocked" class="scroll"></div>
<h2>Consumers of the log</h2><div id="consumers" class="scroll"></div>
<h2>Workers</h2><div id="workers" class="scroll"></div>
<p id="table" class="soft"></p>
</main>
<dialog id="dialog"><p id="question"></p><button id="yes" type="button">Send back</button><button id="no" type="button">Leave them</button></dialog>
<script>${dashboardScript}</script>
</body>
</html>
`
