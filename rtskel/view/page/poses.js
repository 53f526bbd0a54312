// The poses of every person: packets to frames, and frames by time. No drawing.

// Calls pose(track, frame) for every pose of a message, which holds one packet or several (rtskel/view/packets.py).
export function unpack(buffer, pose) {
  for (let at = 0; at < buffer.byteLength;) {
    const [track, n, joints] = new Uint32Array(buffer, at, 3);
    at += 16;
    const column = (Type, size) => {
      const values = new Type(buffer, at, size);
      at += values.byteLength;
      return values;
    };
    const time = column(Float64Array, n), published = column(Float64Array, n), age = column(Float64Array, n);
    const xyz = column(Float32Array, n * joints * 3), sigma = column(Float32Array, n * joints);
    const confidence = column(Uint8Array, n * joints), flags = column(Uint8Array, n);
    at += -at & 7;
    for (let i = 0; i < n; i++) {
      pose(track, {
        time: time[i], published: published[i], age: age[i], flags: flags[i],
        xyz: xyz.subarray(i * joints * 3, (i + 1) * joints * 3),
        sigma: sigma.subarray(i * joints, (i + 1) * joints),
        confidence: confidence.subarray(i * joints, (i + 1) * joints),
      });
    }
  }
}

// A sequence of poses in the order of their times, of which a live one keeps the last `keep` ms.
export class Track {
  constructor(info, keep) {
    Object.assign(this, info);
    this.keep = keep;
    this.frames = [];
    this.first = 0; // frames before it are forgotten; they are removed many at a time
    this.came = 0; // how many poses have come
  }

  get refined() { return this.lookahead !== null; }
  get newest() { return this.frames[this.frames.length - 1]; }
  get period() { return 1000 / this.fps; }

  push(frame) {
    const frames = this.frames;
    this.came++;
    if (frames.length > this.first && frame.time < this.newest.time - 5000) { // the source starts afresh
      frames.length = this.first = 0;
    }
    let place = frames.length;
    while (place > this.first && frames[place - 1].time > frame.time) place--;
    frames.splice(place, 0, frame);
    while (this.first < frames.length && frames[this.first].time < this.newest.time - this.keep) this.first++;
    if (this.first > 512 && 2 * this.first > frames.length) {
      frames.splice(0, this.first);
      this.first = 0;
    }
  }

  // Index of the first frame that is later than a time.
  after(time) {
    let low = this.first, high = this.frames.length;
    while (low < high) {
      const middle = (low + high) >> 1;
      if (this.frames[middle].time > time) high = middle; else low = middle + 1;
    }
    return low;
  }

  // The last frame up to a time, if it is no older than `old` ms.
  at(time, old = Infinity) {
    const index = this.after(time) - 1;
    const frame = index >= this.first ? this.frames[index] : undefined;
    return frame && time - frame.time <= old ? frame : undefined;
  }

  between(from, to) { return this.frames.slice(this.after(from), this.after(to)); }
}

// Where a person stands and how large he is: running means, so that the picture is steady in any unit.
class Place {
  constructor() { this.count = 0; this.origin = [0, 0, 0]; this.width = 0; }

  see(frame) {
    const {xyz, confidence} = frame, NECK = 1, RIGHT = 2, LEFT = 5;
    if (!confidence[NECK] || !confidence[RIGHT] || !confidence[LEFT]) return;
    const d = [0, 1, 2].map(k => xyz[3 * RIGHT + k] - xyz[3 * LEFT + k]);
    const share = Math.max(1 / ++this.count, 0.004);
    this.width += share * (Math.hypot(...d) - this.width);
    for (let k = 0; k < 3; k++) this.origin[k] += share * (xyz[3 * NECK + k] - this.origin[k]);
  }

  get scale() { return this.width > 0 ? 0.37 / this.width : 1; } // metres in a unit
}

export class Person {
  constructor(name) {
    this.name = name;
    this.tracks = new Map(); // by lookahead; raw: null
    this.place = new Place();
    this.state = "";
    this.hidden = false;
  }

  get raw() { return this.tracks.get(null); }
  get lookaheads() { return [...this.tracks.keys()].filter(key => key !== null).sort((a, b) => a - b); }

  refined(lookahead) {
    const there = this.lookaheads;
    return this.tracks.get(there.includes(lookahead) ? lookahead : there[there.length - 1]);
  }
}

export class People {
  constructor(live) {
    this.live = live;
    this.all = new Map();
    this.byId = new Map();
  }

  add(info) {
    const person = this.all.get(info.stream) ?? new Person(info.stream);
    this.all.set(info.stream, person);
    const track = new Track(info, this.live ? 60_000 : Infinity);
    const before = person.tracks.get(info.lookahead);
    if (before) this.byId.delete(before.id);
    person.tracks.set(info.lookahead, track);
    this.byId.set(info.id, {person, track});
    return person;
  }

  pose(id, frame) {
    const known = this.byId.get(id);
    if (!known) return;
    known.track.push(frame);
    known.person.state = "";
    if (known.track.refined || known.person.tracks.size === 1) known.person.place.see(frame);
  }

  remove(name) {
    const person = this.all.get(name);
    for (const track of person?.tracks.values() ?? []) this.byId.delete(track.id);
    this.all.delete(name);
  }

  get lookaheads() {
    return [...new Set([...this.all.values()].flatMap(person => person.lookaheads))].sort((a, b) => a - b);
  }

  // Length of the longest recording in ms.
  get length() {
    let last = 0;
    for (const {track} of this.byId.values()) last = Math.max(last, (track.newest?.time ?? 0) + track.period);
    return last;
  }
}
