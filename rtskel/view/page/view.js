// The page: what the server says, what the user asks for, and one drawing a frame of the screen.

import {People, unpack} from "./poses.js";
import {Scene, drawn} from "./scene.js";
import {Traces} from "./traces.js";

const element = id => document.getElementById(id);
const show = {refined: true, raw: true, filled: true, sigma: false, apart: false};
const play = {paused: false, back: 0, time: 0, speed: 1}; // back: s before the newest pose; time: ms, of recordings
const scene = new Scene(element("picture"));
const traces = new Traces(element("traces"), () => { changed = true; });
const stats = window.rtskelStats = {drawn: 0, poses: 0, skipped: 0, fps: 0, added: 0, people: 0, errors: 0};

let live = true, people = new People(true), skeletons = {}, lookahead = null, chosen = false, axis = 1;
let changed = true, beat = null, loaded = false;
let clocks = []; // of the last answers about time: the least and the most that the view's clock can be ahead of ours, in ms
let unseen = []; // what has come since the last drawing: [published, age]
const added = [], ages = [], drawings = [];
stats.latencies = added; // of the last poses, in ms from their publishing to their drawing

// --- what the server says ---------------------------------------------------------------------------------------------

function connect() {
  const token = location.hash.slice(1);
  const socket = new WebSocket(`${location.protocol === "https:" ? "wss" : "ws"}://${location.host}/live?token=${encodeURIComponent(token)}`);
  socket.binaryType = "arraybuffer";
  let ping = 0, came = false;
  socket.onmessage = ({data}) => {
    came = true;
    if (typeof data === "string") hear[JSON.parse(data).type]?.(JSON.parse(data));
    else unpack(data, pose);
    changed = true;
  };
  socket.onopen = () => {
    clocks = [];
    const ask = () => {
      if (socket.readyState === WebSocket.OPEN) socket.send(JSON.stringify({ping: performance.now()}));
      ping = setTimeout(ask, clocks.length < 16 ? 100 : 2000);
    };
    ask();
  };
  socket.onclose = () => {
    clearTimeout(ping);
    if (!live && loaded) return; // a recording is here as a whole
    beat = null;
    status("bad", came ? "the view has ended" : "no connection");
    if (!came && !people.all.size) notice("No connection to rtskel view.\nIf it listens on other machines, the address must hold its token.");
    setTimeout(connect, 500);
  };
}

function pose(track, frame) {
  stats.poses++;
  people.pose(track, frame);
  if (live && people.byId.get(track)?.track.refined) unseen.push([frame.published, frame.age]);
}

const hear = {
  hello(message) {
    live = message.live;
    people = new People(live);
    skeletons = Object.fromEntries(Object.entries(message.skeletons).map(([id, body]) => [id, drawn(body)]));
    loaded = false;
    element("source").textContent = message.source;
    document.title = `${message.source} · rtskel view`;
    for (const id of ["server", "live"]) element(id).hidden = !live;
    element("events").hidden = true;
    element("speed").hidden = live;
    Object.assign(element("time"), live ? {min: -60, max: 0, value: 0} : {min: 0, max: 1, value: 0});
    traces.all.forEach(trace => traces.remove(trace));
    if (live) status("", "waiting for the server");
    listPeople();
  },
  track(message) {
    people.add(message);
    listPeople();
    listLookaheads();
  },
  done() {
    loaded = true;
    element("time").max = people.length / 1000;
  },
  beat(message) {
    beat = {...message, heard: performance.now()};
    element("model").textContent = message.model;
    element("model").title = message.model;
    element("rate").textContent = `${message.fps.toFixed(0)} /s`;
    const wrong = Object.entries(message.counts).filter(([, count]) => count).map(([name, count]) => `${name} ${count}`);
    if (message.unshown) wrong.unshift(`${message.unshown} more streams than are shown (--stream chooses)`);
    element("counts").textContent = wrong.join(", ");
  },
  event(message) {
    const item = document.createElement("li"), who = document.createElement("b");
    who.textContent = message.stream || "server";
    item.append(who, ` ${message.kind}${message.detail && message.detail !== message.kind ? `: ${message.detail}` : ""}`);
    const log = element("log");
    log.prepend(item);
    while (log.children.length > 6) log.lastChild.remove();
    element("events").hidden = false;
    if (message.kind === "evicted") {
      people.remove(message.stream);
      listPeople();
    } else if (people.all.has(message.stream) && (message.kind === "end" || message.kind === "stale")) {
      people.all.get(message.stream).state = message.kind === "end" ? "ended" : "stale";
    }
  },
  skipped(message) { stats.skipped += message.packets; },
  pong(message) {
    keep(clocks, [message.now - performance.now(), message.now - message.ping], 32);
  },
};

function status(kind, words) {
  element("pulse").className = `dot ${kind}`;
  element("state").textContent = words;
}
function notice(words) { if (element("notice").textContent !== words) element("notice").textContent = words; }

// --- what the user asks for -------------------------------------------------------------------------------------------

for (const button of document.querySelectorAll("[data-toggle]")) {
  button.onclick = () => {
    show[button.dataset.toggle] = !show[button.dataset.toggle];
    button.ariaPressed = String(show[button.dataset.toggle]);
    changed = true;
  };
}
for (const button of document.querySelectorAll("[data-axis]")) {
  button.onclick = () => {
    axis = Number(button.dataset.axis);
    for (const each of document.querySelectorAll("[data-axis]")) each.ariaPressed = String(each === button);
    changed = true;
  };
}

function listLookaheads() {
  const there = people.lookaheads, list = element("lookaheads");
  if (!chosen || !there.includes(lookahead)) lookahead = there[there.length - 1] ?? null;
  list.hidden = !there.length;
  list.replaceChildren(...there.map(number => {
    const button = document.createElement("button"), delay = document.createElement("small");
    const fps = [...people.all.values()].map(person => person.tracks.get(number)?.fps).find(Boolean);
    delay.textContent = `${Math.round(1000 * number / fps)} ms`;
    button.append(`L${number}`, delay);
    button.title = `lookahead of ${number} frames`;
    button.ariaPressed = String(number === lookahead);
    button.onclick = () => { [lookahead, chosen] = [number, true]; listLookaheads(); changed = true; };
    return button;
  }));
}

function listPeople() {
  element("people").replaceChildren(...[...people.all.values()].map(person => {
    const item = document.createElement("li"), box = document.createElement("input"), label = document.createElement("label");
    const facts = document.createElement("span");
    box.type = "checkbox";
    box.id = `shown-${person.name}`;
    box.checked = !person.hidden;
    box.onchange = () => { person.hidden = !box.checked; changed = true; };
    label.htmlFor = box.id;
    label.textContent = label.title = person.name;
    person.facts = facts;
    item.append(box, label, facts);
    return item;
  }));
  const joints = element("joint");
  const skeleton = [...people.byId.values()].map(({track}) => skeletons[track.skeleton]).find(Boolean);
  if (joints.options.length === 0 && skeleton) {
    joints.append(new Option("follow a joint …", ""), ...skeleton.names.map((name, index) => new Option(name.replaceAll("_", " "), index)));
  }
}
element("joint").onchange = ({target}) => {
  const person = [...people.all.values()].find(each => !each.hidden);
  if (person && target.value !== "") follow(person, Number(target.value));
  target.value = "";
};

function follow(person, joint) {
  const known = traces.all.find(trace => trace.person === person && trace.joint === joint);
  const track = person.tracks.values().next().value;
  if (known) traces.remove(known);
  else traces.add(person, joint, `${person.name} · ${skeletons[track.skeleton].names[joint].replaceAll("_", " ")}`);
  changed = true;
}

function pause(paused) {
  if (paused && !play.paused) for (const person of people.all.values()) person.frozen = newest(person);
  play.paused = paused;
  if (!paused && live) play.back = 0;
  if (!paused && !live && play.time >= people.length - 1) play.time = 0;
  element("play").classList.toggle("paused", paused);
  element("play").ariaLabel = paused ? "Play" : "Pause";
  element("live").ariaPressed = String(!paused);
  changed = true;
}
element("play").onclick = () => pause(!play.paused);
element("live").onclick = () => pause(false);
element("speed").onchange = ({target}) => { play.speed = Number(target.value); };
element("time").oninput = ({target}) => seek(Number(target.value));

function seek(seconds) {
  pause(true);
  if (live) play.back = Math.min(0, Math.max(-60, seconds));
  else play.time = Math.min(people.length - 1, Math.max(0, 1000 * seconds));
  changed = true;
}

const picture = element("picture");
let pressed = null;
picture.onpointerdown = event => {
  pressed = {x: event.clientX, y: event.clientY, moved: 0, pan: event.shiftKey || event.button !== 0};
  picture.setPointerCapture(event.pointerId);
};
picture.onpointermove = event => {
  if (!pressed) return;
  const dx = event.clientX - pressed.x, dy = event.clientY - pressed.y;
  if (pressed.pan) [scene.x, scene.y] = [scene.x + dx, scene.y + dy];
  else [scene.yaw, scene.pitch] = [scene.yaw + dx * 0.008, Math.max(-1.5, Math.min(1.5, scene.pitch + dy * 0.008))];
  Object.assign(pressed, {x: event.clientX, y: event.clientY, moved: pressed.moved + Math.abs(dx) + Math.abs(dy)});
  changed = true;
};
picture.onpointerup = event => {
  if (pressed && pressed.moved < 4) {
    const found = scene.pick(event.offsetX, event.offsetY), person = people.all.get(found?.name);
    if (person) follow(person, found.joint);
  }
  pressed = null;
};
picture.ondblclick = event => {
  if (!scene.pick(event.offsetX, event.offsetY)) scene.reset();
  changed = true;
};
picture.oncontextmenu = event => event.preventDefault();
picture.addEventListener("wheel", event => {
  event.preventDefault();
  const before = scene.zoom, box = picture.getBoundingClientRect();
  scene.zoom = Math.max(0.3, Math.min(12, before * Math.exp(-event.deltaY * 0.0012)));
  for (const [key, at] of [["x", event.clientX - box.left - box.width / 2], ["y", event.clientY - box.top - box.height / 2]]) {
    scene[key] = at + (scene[key] - at) * scene.zoom / before; // what is under the pointer stays there
  }
  changed = true;
}, {passive: false});
document.addEventListener("keydown", event => {
  if (event.target.matches("input, select, button") && event.key !== " ") return;
  const step = {ArrowLeft: -1, ArrowRight: 1}[event.key];
  if (event.key === " ") {
    event.preventDefault();
    pause(!play.paused);
  } else if (step) {
    const seconds = step / 25;
    seek((live ? play.back : play.time / 1000) + seconds);
  }
});

// --- one drawing ------------------------------------------------------------------------------------------------------

const newest = person => (person.refined(lookahead)?.newest ?? person.raw?.newest)?.time;

// The time that is shown of a person, the span that is shown of his joints over time, and his tracks.
function moment(person) {
  const time = live ? (play.paused ? person.frozen + 1000 * play.back : newest(person)) : play.time;
  const span = live ? 8000 : Math.min(8000, people.length), end = live ? time : Math.min(people.length, Math.max(time + span / 2, span));
  return {time, end, span, refined: person.refined(lookahead), raw: person.raw, axis};
}

function cells() {
  const drawn = [];
  for (const person of people.all.values()) {
    if (person.hidden) continue;
    const {time, refined, raw} = moment(person), layers = [];
    const frame = show.refined && refined?.at(time + 0.5);
    if (frame) layers.push({frame, skeleton: skeletons[refined.skeleton], kind: "refined", marks: show.filled, sigma: show.sigma, solid: true});
    const alone = !refined || (refined && !show.refined);
    const seen = (show.raw || alone) && raw?.at(time + 0.5, alone ? Infinity : 0.6 * raw.period);
    if (seen) layers.push({frame: seen, skeleton: skeletons[raw.skeleton], kind: "raw", solid: alone || show.apart});
    const chosen = traces.all.filter(trace => trace.person === person).map(trace => trace.joint);
    const over = !live && loaded && time > newest(person) + 1000;
    drawn.push({name: person.name, note: over ? "ended" : person.state, place: person.place, layers: show.apart ? layers.reverse() : layers, chosen});
  }
  return drawn;
}

// How many ms the view's clock is ahead of ours: what all answers agree on, if that leaves less than 20 ms open.
function ahead() {
  const least = Math.max(...clocks.map(([low]) => low)), most = Math.min(...clocks.map(([, high]) => high));
  return clocks.length && most - least < 20 ? (least + most) / 2 : NaN;
}

const median = values => values.length ? [...values].sort((a, b) => a - b)[values.length >> 1] : NaN;
const keep = (list, value, most = 240) => { list.push(value); if (list.length > most) list.shift(); };
let before = performance.now(), told = 0;

function turn(now) {
  const step = now - before;
  before = now;
  if (!live && !play.paused && loaded) {
    play.time += play.speed * Math.min(step, 200);
    if (play.time >= people.length) play.time = 0;
    changed = true;
  }
  if (changed) {
    changed = false;
    const shown = cells();
    scene.draw(shown, show.apart);
    traces.draw(scene, moment);
    stats.drawn++;
    stats.people = shown.filter(cell => cell.layers.length).length;
    const drawnAt = performance.now() + ahead();
    if (!Number.isNaN(drawnAt) && !play.paused) {
      for (const [published, age] of unseen) {
        keep(added, Math.max(0, drawnAt - published));
        if (!Number.isNaN(age)) keep(ages, age + Math.max(0, drawnAt - published));
      }
    }
    unseen = [];
    keep(drawings, now, 120);
    timeline();
  }
  if (now - told > 250) {
    told = now;
    tell(now);
  }
  requestAnimationFrame(turn);
}

function timeline() {
  const seconds = live ? play.back : play.time / 1000;
  element("time").value = seconds;
  element("clock").textContent = live
    ? (play.paused ? `${seconds.toFixed(2)} s` : "now")
    : `${seconds.toFixed(2)} / ${(people.length / 1000).toFixed(2)} s`;
}

function tell(now) {
  const recent = drawings.filter(each => now - each < 1000);
  stats.fps = recent.length;
  stats.added = median(added);
  element("fps").textContent = recent.length > 1 ? `${recent.length} fps` : "still";
  element("added").textContent = added.length ? `${stats.added.toFixed(1)} ms` : "–";
  element("age").textContent = ages.length ? `${median(ages).toFixed(0)} ms` : "–";
  if (live && beat) {
    const silent = now - beat.heard;
    if (silent > 3 * beat.interval + 500) status("bad", `no heartbeat for ${(silent / 1000).toFixed(0)} s`);
    else status("good", `serving ${beat.streams} ${beat.streams === 1 ? "stream" : "streams"}`);
  }
  if (people.all.size) notice("");
  else if (beat) notice("The server is there. Waiting for poses:\nrtskel publish recording.npz, or rtskel estimate --camera 0");
  else if (live) notice(`Waiting for a server at ${element("source").textContent} …`);
  for (const person of people.all.values()) facts(person, now);
}

function facts(person, now) {
  const track = person.refined(lookahead) ?? person.raw;
  if (!person.facts || !track) return;
  let filled = 0, all = 0;
  const step = live ? 1 : Math.ceil(track.frames.length / 64); // of a recording, from all over it
  for (let at = Math.max(0, track.frames.length - 64 * step); at < track.frames.length; at += step) {
    const frame = track.frames[at];
    for (const value of frame.confidence) filled += !value;
    all += frame.confidence.length;
  }
  const rate = live && person.counted ? 1000 * (track.came - person.counted.came) / (now - person.counted.now) : track.fps;
  if (!person.counted || now - person.counted.now > 1000) person.counted = {came: track.came, now, rate};
  const words = [person.state || `${Math.round(person.counted.rate)} fps`, `${Math.round(100 * filled / Math.max(1, all))}% ${track.refined ? "filled" : "missing"}`];
  person.facts.textContent = words.join(" · ");
}

window.addEventListener("error", () => stats.errors++);
new ResizeObserver(() => { changed = true; }).observe(picture);
pause(false);
connect();
requestAnimationFrame(turn);
