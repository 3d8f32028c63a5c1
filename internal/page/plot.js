// Texts from outside stay text: nothing on this page turns a string into HTML.

const element = (name, attributes, ...children) => filled(document.createElement(name), attributes, children);
const shape = (name, attributes, ...children) => filled(document.createElementNS('http://www.w3.org/2000/svg', name), attributes, children);

function filled(node, attributes, children) {
	for (const [name, value] of Object.entries(attributes ?? {})) node.setAttribute(name, value);
	node.append(...children);
	return node;
}

// say and set change the document only if they must, so that a quiet page costs nothing.
function say(node, text) {
	if (node.textContent !== text) node.textContent = text;
}

function set(node, name, value) {
	if (node.getAttribute(name) !== value) node.setAttribute(name, value);
}

const grouped = new Intl.NumberFormat('en', { maximumFractionDigits: 1 });
const number = n => grouped.format(n);
const plural = (n, what) => `${number(n)} ${what}${n === 1 ? '' : 's'}`;

// span formats a time that is over.
function span(seconds) {
	if (seconds < 0.9995) return `${Math.round(seconds * 1000)} ms`;
	if (seconds < 9.95) return `${seconds.toFixed(1)} s`;
	return age(seconds);
}

// age formats a time that goes on, in steps of a second.
function age(seconds) {
	const s = Math.max(0, Math.floor(seconds)), m = Math.floor(s / 60), h = Math.floor(m / 60), d = Math.floor(h / 24);
	if (d) return `${d} d ${h % 24} h`;
	if (h) return `${h} h ${m % 60} min`;
	if (m) return `${m} min ${s % 60} s`;
	return `${s} s`;
}

// size formats a number of bytes, in the units of the commands.
function size(bytes) {
	for (const unit of ['B', 'KiB', 'MiB', 'GiB']) {
		if (bytes < 1023.5) return `${bytes < 9.95 && unit !== 'B' ? bytes.toFixed(1) : Math.round(bytes)} ${unit}`;
		bytes /= 1024;
	}
	return `${number(bytes)} TiB`;
}

// The plots of a lock. A series has one value for each of the last seconds, the newest last, and
// null for a second without one. A plot fills the area under its first series.
const seconds = 300;
const figures = ['waiting', 'p50', 'p90', 'ended', 'refused'];
const plots = [
	{ what: 'waiting', of: '5 min', lines: [{ figure: 'waiting', tone: 'wait', name: 'now' }], write: number },
	{ what: 'time in line', of: '5 min', lines: [{ figure: 'p90', tone: 'late', name: 'p90' }, { figure: 'p50', tone: 'wait', name: 'p50' }], write: span, sparse: true },
	{ what: 'per second', of: '5 min, means of 10 s', lines: [{ figure: 'ended', tone: 'held', name: 'ended' }, { figure: 'refused', tone: 'bad', name: 'refused' }], write: number, mean: 10 },
];

class Plot {
	constructor(kind) {
		this.kind = kind;
		this.keys = kind.lines.map(line => element('b'));
		this.paths = kind.lines.map(line => shape('path', { class: `tone-${line.tone}` }));
		this.area = shape('path', { class: `area tone-${kind.lines[0].tone}` });
		this.svg = shape('svg', { viewBox: '0 0 300 54', preserveAspectRatio: 'none', role: 'img' }, ...kind.sparse ? [] : [this.area], ...this.paths);
		this.range = element('span');
		this.element = element('figure', { class: 'plot' },
			element('figcaption', {}, element('span', { class: 'what' }, kind.what),
				element('span', {}, ...kind.lines.map((line, i) => element('span', { class: `key tone-${line.tone}` }, `${line.name} `, this.keys[i])))),
			this.svg,
			element('div', { class: 'scale' }, this.range, element('span', {}, kind.of)));
	}

	draw(series) {
		const { what, lines, write, mean, sparse } = this.kind;
		const drawn = lines.map(line => mean ? smooth(series[line.figure], mean) : series[line.figure]);
		let low = Infinity, high = 0;
		for (const value of drawn.flat()) {
			if (value === null) continue;
			low = Math.min(low, value);
			high = Math.max(high, value);
		}
		const y = value => (52 - (high && 49 * value / high)).toFixed(1);
		const now = lines.map((line, i) => {
			const idle = !sparse && !drawn[i].some(Boolean); // do not draw a line of zeros
			set(this.paths[i], 'd', idle ? '' : trace(drawn[i], y, sparse ? 10 : 2));
			set(this.keys[i].parentNode, 'class', idle ? 'key zero' : `key tone-${line.tone}`);
			const value = drawn[i].findLast(value => value !== null);
			const text = value === undefined ? '–' : write(value);
			say(this.keys[i], text);
			return `${line.name} ${text}`;
		});
		const [first] = drawn;
		if (!sparse) set(this.area, 'd', `M${x(first, 0)} 54${first.map((value, i) => `L${x(first, i)} ${y(value ?? 0)}`).join('')}L300 54Z`);
		const range = low <= high ? `min ${write(low)}, max ${write(high)}` : 'none yet';
		say(this.range, range);
		set(this.svg, 'aria-label', `${what} in the last 5 minutes: ${now.join(', ')}, ${range}`);
	}
}

const x = (values, i) => seconds - values.length + i + 0.5;

// trace draws a line through the values. A gap of more than so many seconds stays empty, and a
// value on its own is a dot.
function trace(values, y, gap) {
	let path = '', last = -Infinity;
	values.forEach((value, i) => {
		if (value === null) return;
		path += i - last > gap ? `M${x(values, i)} ${y(value)}h0` : `L${x(values, i)} ${y(value)}`;
		last = i;
	});
	return path;
}

// smooth returns the mean of each value and those before it, so many in all.
function smooth(values, over) {
	return values.map((value, i) => {
		if (value === null) return null;
		const last = values.slice(Math.max(0, i - over + 1), i + 1).filter(value => value !== null);
		return last.reduce((sum, value) => sum + value, 0) / last.length;
	});
}
