// The picture of a lock: a box for each slot, and the line in front of the slots, the first waiter
// first. A waiter keeps its shape while it waits, so that a viewer sees it move up.

const gap = 10;
const shown = { boxes: 24, fewBoxes: 12, slots: 128 };

class Picture {
	constructor() {
		this.parts = new Map(); // by key
		this.gate = shape('path');
		this.arrow = shape('path', { class: 'arrow' });
		this.slots = shape('g');
		this.line = shape('g', { role: 'img' });
		this.note = shape('text', { class: 'small' });
		this.rest = shape('text', { class: 'small' });
		this.line.append(this.note, this.rest);
		this.svg = shape('svg', { role: 'group', 'aria-label': 'slots and line' }, this.gate, this.arrow, this.slots, this.line);
		this.element = element('div', { class: 'picture' }, this.svg);
		this.height = 0;
	}

	draw(lock, width, now) {
		this.used = new Set();
		const slots = slotsOf(lock);
		const boxes = slots.length > shown.boxes ? shown.fewBoxes : slots.length;
		const beside = width >= 600 && boxes <= 8;
		const columns = beside ? (boxes > 3 ? 2 : 1) : Math.max(1, Math.floor((width + gap) / (196 + gap)));
		const box = {
			width: beside ? (columns > 1 ? 206 : 236) : (width - (columns - 1) * gap) / columns,
			height: lock.workers?.length ? 84 : 66,
		};
		const area = this.drawSlots(lock, slots, boxes, { columns, box, width: beside ? columns * (box.width + gap) - gap : width }, now);
		const line = beside
			? { x: area.width + 50, y: 0, width: width - area.width - 50, height: area.height }
			: { x: 0, y: area.height + 34, width, height: 44 };
		set(this.svg, 'class', width === this.width ? '' : 'still');
		const shut = lock.paused || lock.exclusive;
		set(this.gate, 'class', shut ? 'gate shut' : 'gate');
		if (beside) {
			const at = area.width + 25, middle = area.height / 2;
			set(this.gate, 'd', shut ? `M${at} 2V${area.height - 2}` : `M${at} 2V${middle - 12}M${at} ${middle + 12}V${area.height - 2}`);
			set(this.arrow, 'd', shut ? '' : `M${at + 7} ${middle}h-14m5 -5l-5 5l5 5`);
		} else {
			const at = area.height + 17, middle = width / 2;
			set(this.gate, 'd', shut ? `M2 ${at}H${width - 2}` : `M2 ${at}H${middle - 12}M${middle + 12} ${at}H${width - 2}`);
			set(this.arrow, 'd', shut ? '' : `M${middle} ${at + 7}v-14m-5 5l5 -5l5 5`);
		}
		const bottom = this.drawLine(lock, line, now);
		this.forget();
		this.grow(Math.max(area.height, bottom), width);
	}

	// grow makes room at once, and gives it up only after ten seconds without need. Otherwise
	// everything below would jump up and down with the line.
	grow(height, width) {
		if (height >= this.height || width !== this.width) this.needed = Date.now();
		if (height < this.height && width === this.width && Date.now() - this.needed < 10000) return;
		this.height = height;
		this.width = width;
		this.needed = Date.now();
		set(this.svg, 'height', String(height));
		set(this.svg, 'viewBox', `0 0 ${width} ${height}`);
	}

	drawSlots(lock, slots, boxes, { columns, box, width }, now) {
		slots.slice(0, boxes).forEach((slot, i) => {
			const part = this.part(`slot ${slot.number}`, this.slots, newBox);
			part.move(i % columns * (box.width + gap), Math.floor(i / columns) * (box.height + gap));
			part.draw(slot, box, now);
		});
		let height = Math.ceil(boxes / columns) * (box.height + gap) - gap;
		const perRow = Math.max(1, Math.floor((width + 6) / 20)), squares = slots.slice(boxes);
		squares.forEach((slot, i) => {
			const part = this.part(`square ${slot.number}`, this.slots, newSquare);
			part.move(i % perRow * 20, height + gap + Math.floor(i / perRow) * 20);
			part.draw(slot, now);
		});
		height += squares.length ? gap + Math.ceil(squares.length / perRow) * 20 - 6 : 0;
		const more = lock.slots - slots.length;
		if (more > 0) {
			const part = this.part('more slots', this.slots, newText);
			part.move(0, height + 18);
			say(part.node, `and ${plural(more, 'more slot')}, ${number(lock.held)} held of all`);
			height += 22;
		}
		return { width, height };
	}

	drawLine(lock, area, now) {
		const waited = w => w.waited_seconds + now - lock.at;
		const longest = lock.oldest_wait_seconds + now - lock.at;
		const columns = Math.max(1, Math.floor((area.width + 8) / (152 + 8)));
		const rows = Math.max(2, Math.floor((area.height + 8) / 52));
		const width = (area.width - (columns - 1) * 8) / columns;
		const tiles = lock.waiters.slice(0, columns * rows), dots = lock.waiters.slice(tiles.length);
		tiles.forEach((w, i) => {
			const part = this.part(`tile ${w.id}`, this.line, newTile);
			part.move(area.x + i % columns * (width + 8), area.y + Math.floor(i / columns) * 52);
			part.draw(w, width, waited(w));
		});
		let bottom = area.y + Math.ceil(tiles.length / columns) * 52 - 8;
		const perRow = Math.max(1, Math.floor(area.width / 13));
		dots.forEach((w, i) => {
			const part = this.part(`dot ${w.id}`, this.line, newDot);
			part.move(area.x + 5 + i % perRow * 13, bottom + 15 + Math.floor(i / perRow) * 13);
			part.draw(w, waited(w), longest);
		});
		if (dots.length) bottom += 10 + Math.ceil(dots.length / perRow) * 13;
		const more = lock.waiting - lock.waiters.length;
		say(this.rest, more > 0 ? `and ${number(more)} more behind them` : '');
		set(this.rest, 'x', String(area.x));
		set(this.rest, 'y', String(bottom + 18));
		say(this.note, lock.waiting ? '' : 'no waiters');
		set(this.note, 'x', String(area.x + (area.y ? 2 : 6)));
		set(this.note, 'y', String(area.y + (area.y ? 4 : area.height / 2 + 4)));
		const first = lock.waiters[0];
		set(this.line, 'aria-label', first ? `${number(lock.waiting)} in line, the first is ${first.client}, for ${age(waited(first))}` : 'no waiters');
		if (!lock.waiting) return area.y + 12;
		return bottom + (more > 0 ? 24 : 2);
	}

	part(key, parent, make) {
		this.used.add(key);
		let part = this.parts.get(key);
		if (!part) {
			part = make();
			part.move = (x, y) => {
				// A waiter jumps to another row: on its way it would cross all others.
				part.node.classList.toggle('jumps', part.y !== y);
				part.node.style.transform = `translate(${x.toFixed(1)}px, ${y.toFixed(1)}px)`;
				part.y = y;
			};
			this.parts.set(key, part);
			parent.append(part.node);
		}
		return part;
	}

	forget() {
		for (const [key, part] of this.parts) {
			if (this.used.has(key)) continue;
			part.node.remove();
			this.parts.delete(key);
		}
	}
}

// slotsOf returns the slots, each with its holder and its worker.
function slotsOf(lock) {
	const slots = [];
	const slot = n => slots[n - 1] ??= { number: n };
	for (let n = 1; n <= Math.min(lock.slots, shown.slots); n++) slot(n);
	for (const holder of lock.holders) slot(holder.slot).holder = holder;
	for (const worker of lock.workers ?? []) for (const s of worker.slot ? [slot(worker.slot)] : slots.filter(Boolean)) s.worker = worker; // slot 0: all slots
	return slots.filter(Boolean).map(s => ({ ...s, state: s.holder?.state ?? (s.worker && !['up', 'stopped'].includes(s.worker.state) ? s.worker.state : 'free') }));
}

// behind returns the address and the state of a slot's worker.
function behind({ worker }) {
	const p = worker?.process;
	if (p?.failed) return [p.failed, ''];
	return [worker?.address ?? '', p ? (p.due ? `restart due: ${p.due}` : p.state === 'ready' && p.connections ? `${number(p.connections)} served` : p.state) : ''];
}

// spoken describes a slot in words, for a tooltip and for screen readers.
function spoken(slot, now) {
	const { holder } = slot;
	const said = [`slot ${slot.number}`, slot.state];
	if (holder) said.push(`${holder.client} for ${age(now - Date.parse(holder.since) / 1000)}`, `after ${span(holder.waited_seconds)} in line`, ...holder.connect_seconds ? [`service reached in ${span(holder.connect_seconds)}`] : [], `${size(holder.bytes_in)} in, ${size(holder.bytes_out)} out`);
	said.push(...behind(slot).filter(Boolean));
	return said.join(', ');
}

function newBox() {
	const title = shape('title'), rect = shape('rect', { class: 'box', rx: 8 }), edge = shape('rect', { class: 'edge', x: 4, y: 9, width: 3.5, rx: 1.75 });
	const [where, client, bytes, worker] = [['small', 20], ['strong', 39], ['small', 56], ['small', 73]].map(([kind, y]) => shape('text', { class: kind, x: 15, y }));
	const held = shape('text', { class: 'strong end', y: 20 }), process = shape('text', { class: 'small end', y: 73 });
	const node = shape('g', { role: 'img' }, title, rect, edge, where, client, bytes, worker, held, process);
	return {
		node, draw(slot, box, now) {
			const { holder } = slot, room = box.width - 26, words = spoken(slot, now);
			const [address, state] = behind(slot);
			set(node, 'class', slot.state);
			set(node, 'aria-label', words);
			say(title, words);
			set(rect, 'width', box.width.toFixed(1));
			set(rect, 'height', String(box.height));
			set(edge, 'height', String(box.height - 18));
			for (const text of [held, process]) set(text, 'x', (box.width - 11).toFixed(1));
			say(where, `slot ${slot.number} · ${slot.state}`);
			say(held, holder ? age(now - Date.parse(holder.since) / 1000) : '');
			say(client, holder ? fit(holder.client, room, strong) : '');
			say(bytes, holder ? `${size(holder.bytes_in)} in, ${size(holder.bytes_out)} out` : '');
			say(process, state);
			say(worker, fit(address, room - (state && wide(state, small) + 8), small));
			set(worker, 'class', slot.worker?.process?.failed ? 'small alarm' : 'small');
		},
	};
}

function newSquare() {
	const title = shape('title');
	const node = shape('g', { role: 'img' }, title, shape('rect', { class: 'square', width: 14, height: 14, rx: 3 }));
	return {
		node, draw(slot, now) {
			set(node, 'class', slot.state);
			const words = spoken(slot, now);
			say(title, words);
			set(node, 'aria-label', words);
		},
	};
}

const newText = () => ({ node: shape('text', { class: 'small' }) });

function newTile() {
	const title = shape('title'), rect = shape('rect', { height: 44, rx: 8 });
	const place = shape('text', { class: 'small', x: 11, y: 18 }), client = shape('text', { class: 'small', x: 11, y: 35 });
	const wait = shape('text', { class: 'strong end', y: 18 });
	const node = shape('g', { class: 'tile moves' }, title, rect, place, client, wait);
	return {
		node, draw(w, width, waited) {
			set(rect, 'width', width.toFixed(1));
			set(wait, 'x', (width - 11).toFixed(1));
			say(title, `${w.position}. ${w.client}, for ${age(waited)}${w.priority ? `, priority ${w.priority}` : ''}`);
			say(place, `${number(w.position)}.${w.priority ? `  priority ${w.priority}` : ''}`);
			say(client, fit(w.client, width - 20, small));
			say(wait, age(waited));
		},
	};
}

function newDot() {
	const title = shape('title');
	const node = shape('g', { class: 'moves' }, title, shape('circle', { class: 'dot', r: 4.2 }));
	return {
		node, draw(w, waited, longest) {
			say(title, `${w.position}. ${w.client}, for ${age(waited)}`);
			set(node, 'opacity', (0.3 + 0.7 * Math.min(1, waited / Math.max(1, longest))).toFixed(2));
		},
	};
}

// fit cuts a text in the middle, because addresses differ at their ends.
function fit(text, room, font) {
	let cut = text;
	for (let most = text.length - 1; most > 4 && wide(cut, font) > room; most--) {
		const end = Math.floor((most - 1) / 2);
		cut = `${text.slice(0, most - 1 - end)}…${text.slice(-end)}`;
	}
	return cut;
}

const small = '11.5px', strong = '600 13px';
const ruler = document.createElement('canvas').getContext('2d');
const family = getComputedStyle(document.body).fontFamily;

function wide(text, font) {
	ruler.font = `${font} ${family}`;
	return ruler.measureText(text).width;
}
