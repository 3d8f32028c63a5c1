// A card is one lock on the page: a row that opens.

const few = 6; // with so many locks or fewer, all cards are open at first
const latestEvents = 6; // the earlier ones are folded
const outcomes = ['served', 'service_error', 'client_gone', 'hold_timeout', 'kicked', 'refused_full', 'refused_paused', 'wait_timeout', 'worker_down', 'hook_failed', 'shutdown'];

class Card {
	constructor(name, open) {
		this.name = name;
		this.series = {};
		for (const figure of figures) this.series[figure] = [];
		this.heading = element('h2', {}, name);
		this.marks = element('span', { class: 'marks' });
		this.figures = ['held', 'waiting', 'longest wait'].map(what => {
			const value = element('b');
			return { value, element: element('span', {}, `${what} `, value) };
		});
		this.element = element('details', { class: 'lock', 'data-lock': name },
			element('summary', {}, this.heading, this.marks, element('span', { class: 'figures' }, ...this.figures.map(f => f.element))));
		this.element.open = open;
		this.element.addEventListener('toggle', () => stale(this));
	}

	// body is made when the card is opened for the first time.
	get body() {
		if (this.picture) return this;
		this.picture = new Picture();
		this.plots = plots.map(kind => new Plot(kind));
		this.events = element('ol', { class: 'events' });
		this.earlier = element('ol', { class: 'events' });
		this.count = element('summary');
		this.more = element('details', { class: 'earlier' }, this.count, this.earlier);
		this.outcomes = element('dl', { class: 'outcomes' });
		this.failing = element('p', { class: 'failing' });
		this.none = element('p', { class: 'rest' });
		this.element.append(element('div', { class: 'body' }, this.failing, this.picture.element,
			element('div', { class: 'plots' }, ...this.plots.map(plot => plot.element)),
			element('div', { class: 'past' },
				element('section', {}, element('h3', {}, 'recent events'), this.events, this.more),
				element('section', {}, element('h3', {}, 'connections that have ended'), this.outcomes, this.none))));
		return this;
	}

	// show takes the lock's state from Caddy.
	show(lock) {
		lock.at = Date.parse(lock.now) / 1000;
		this.lock = lock;
		this.told = true;
	}

	// add takes a sample, or nulls for one that was missed.
	add(values) {
		figures.forEach((figure, i) => {
			const series = this.series[figure];
			series.push(values[i]);
			if (series.length > seconds) series.shift();
		});
	}

	get busy() { return this.lock.held > 0 || this.lock.waiting > 0; }

	draw(now) {
		const { lock } = this;
		const marks = marksOf(lock, now);
		list(this.marks, marks, () => element('span'), (node, { text, kind }) => {
			set(node, 'class', kind);
			say(node, text);
		});
		const longest = lock.waiting ? lock.oldest_wait_seconds + now - lock.at : 0;
		[[lock.held, `${number(lock.held)} of ${number(lock.slots)}`, 'held'], [lock.waiting, number(lock.waiting), 'waiting'], [lock.waiting, lock.waiting ? age(longest) : '–', 'longest']].forEach(([some, text, kind], i) => {
			set(this.figures[i].element, 'class', some ? kind : `${kind} nothing`);
			say(this.figures[i].value, text);
		});
		if (!this.element.open) return;
		const { picture } = this.body;
		say(this.failing, lock.failing?.error ?? '');
		this.failing.hidden = !lock.failing;
		const width = picture.element.clientWidth;
		if (width) picture.draw(lock, width, now);
		for (const plot of this.plots) plot.draw(this.series);
		const drawnEvent = (node, event) => drawEvent(node, event, now), earlier = lock.events.slice(latestEvents);
		list(this.events, lock.events.length ? lock.events.slice(0, latestEvents) : [null], newEvent, drawnEvent);
		list(this.earlier, earlier, newEvent, drawnEvent);
		say(this.count, `${number(earlier.length)} earlier`);
		this.more.hidden = !earlier.length;
		const ended = Object.entries(lock.connections).sort(([a], [b]) => outcomes.indexOf(a) - outcomes.indexOf(b)), some = ended.filter(([outcome, n]) => n || outcome === 'served');
		list(this.outcomes, some, () => element('div', {}, element('dt'), element('dd')), (node, [outcome, n]) => {
			say(node.firstChild, outcome);
			say(node.lastChild, number(n));
		});
		const none = ended.filter(([outcome, n]) => !n && outcome !== 'served').map(([outcome]) => outcome);
		say(this.none, none.length ? `none yet: ${none.join(', ')}` : '');
	}
}

// list gives parent one child for each item, and draws each.
function list(parent, items, make, draw) {
	while (parent.childElementCount > items.length) parent.lastChild.remove();
	items.forEach((item, i) => {
		if (i === parent.childElementCount) parent.append(make());
		draw(parent.children[i], item);
	});
}

// marksOf returns what an operator should see first.
function marksOf(lock, now) {
	const marks = [];
	const mark = (text, kind = 'warn') => marks.push({ text, kind });
	if (lock.failing) {
		const { since, connections } = lock.failing;
		mark(`failing for ${age(now - Date.parse(since) / 1000)}, ${plural(connections, 'connection')} refused`, 'bad');
	}
	if (lock.paused) {
		const { since, until } = lock.paused;
		mark(until ? `paused, resumes in ${age(Date.parse(until) / 1000 - now)}` : `paused for ${age(now - Date.parse(since) / 1000)}, until resumed`);
	}
	if (lock.exclusive) mark('no connection admitted: a hook has the service to itself');
	if (lock.left_over) mark(`${number(lock.left_over)} left over at the service`, 'bad');
	if (lock.held > lock.slots) mark(`${number(lock.held - lock.slots)} over, until they finish`);
	if (lock.max_waiting > 0 && lock.waiting >= lock.max_waiting) mark('line full', 'bad');
	const workers = lock.workers ?? [];
	for (const [state, text, kind] of [['down', 'down', 'bad'], ['unready', 'not ready', 'warn']]) {
		const n = workers.filter(worker => worker.state === state).length;
		if (n) mark(workers[0].slot ? `${number(n)} of ${plural(workers.length, 'worker')} ${text}` : `service ${text}`, kind);
	}
	return marks;
}

// The name of each event, and its colour.
const eventWords = {
	refused: ['refused', 'warn'],
	timeout: ['hold_timeout', 'bad'],
	hook_failed: ['hook failed', 'bad'],
	idle: ['idle hooks', ''],
	kicked: ['kicked', 'warn'],
	paused: ['paused', 'warn'],
	resumed: ['resumed', 'good'],
	worker_down: ['worker down', 'bad'],
	worker_up: ['worker up', 'good'],
	started: ['service started', 'good'],
	restarted: ['service restarted', 'warn'],
	stopped: ['service stopped', ''],
	failed: ['service failed', 'bad'],
	left_over: ['left over', 'bad'],
	discarded: ['bytes discarded', 'warn'],
	renamed: ['renamed', ''],
};

const newEvent = () => element('li', {}, element('time'), element('p', {}, element('b'), element('span')));

function drawEvent(node, event, now) {
	const [time, words] = node.children;
	const [what, detail] = words.children;
	if (!event) {
		set(node, 'class', 'nothing');
		say(time, '');
		say(what, '');
		say(detail, 'nothing yet');
		return;
	}
	const [name, kind] = eventWords[event.event] ?? [event.event, ''];
	const seconds = now - Date.parse(event.time) / 1000;
	set(node, 'class', kind);
	set(time, 'datetime', event.time);
	say(time, seconds < 1 ? 'now' : `${seconds < 60 ? age(seconds) : age(seconds).split(' ').slice(0, 2).join(' ')} ago`);
	say(what, name);
	const said = [
		event.bytes && plural(event.bytes, 'byte'), event.reason, event.moment && `on ${event.moment}`, event.slot && `slot ${event.slot}`, event.worker, event.client,
		event.held_seconds && `had held for ${span(event.held_seconds)}`, event.event === 'refused' && event.waited_seconds && `had waited for ${span(event.waited_seconds)}`,
		event.error,
	].filter(Boolean);
	say(detail, `${event.count > 1 ? ` × ${number(event.count)}` : ''}${said.length ? ` · ${said.join(' · ')}` : ''}`);
}
