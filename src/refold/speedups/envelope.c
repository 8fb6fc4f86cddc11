/* The envelope as refold's publisher writes it, to an event: fields in their order, no blanks, no escapes. Whatever is written
 * in another way, or is wrong, is left to the codec in Python, which also tells what is wrong.
 */
#include "native.h"
#include <datetime.h>

static const char *const event_fields[E_FIELDS] = {
    "id", "aggregate_id", "type", "aggregate_type", "timestamp", "version", "payload", "payload_version", "position",
    "raw_headers",
};

int
envelope_init(void)
{
    PyDateTime_IMPORT;
    return PyDateTimeAPI == NULL ? -1 : 0;
}

/* Whether a text stands in JSON as it is: printable ASCII without quotes and backslashes. */
int
is_plain(const char *text, Py_ssize_t size)
{
    int bad = 0;
    for (Py_ssize_t i = 0; i < size; i++) {
        unsigned char c = (unsigned char)text[i];
        bad |= (c < 0x20) | (c > 0x7e) | (c == '"') | (c == '\\');
    }
    return !bad;
}

/* Where instances of a class keep attributes; -1 with an exception where those are no plain slots. */
int
slots_of(PyObject *type, const char *const *names, int count, Py_ssize_t *at)
{
    for (int i = 0; i < count; i++) {
        PyObject *slot = PyObject_GetAttrString(type, names[i]);
        if (slot == NULL)
            return -1;
        PyMemberDef *member = Py_IS_TYPE(slot, &PyMemberDescr_Type) ? ((PyMemberDescrObject *)slot)->d_member : NULL;
        int fits = member != NULL && member->type == T_OBJECT_EX;
        at[i] = fits ? member->offset : 0;
        Py_DECREF(slot);
        if (!fits) {
            PyErr_Format(PyExc_TypeError, "%s is no slot of the class", names[i]);
            return -1;
        }
    }
    return 0;
}

static int
digits(const char **at, int count)
{
    int value = 0;
    for (; count > 0; count--, (*at)++) {
        unsigned digit = (unsigned char)**at - '0';
        if (digit > 9)
            return -1;
        value = value * 10 + (int)digit;
    }
    return value;
}

#define STAMP_LEAST 20 /* without a fraction */

/* A time in UTC, with a fraction of up to six digits, as a datetime; NULL, without an exception, for anything else. */
PyObject *
timestamp_of(const char *at, Py_ssize_t size)
{
    static const int sizes[] = {4, 2, 2, 2, 2, 2};
    static const char after[] = "--T::";
    const char *end = at + size - 1;
    int parts[6], fraction = 0;
    if (size < STAMP_LEAST || size > STAMP_SIZE || *end != 'Z')
        return NULL;
    for (int i = 0; i < 6; i++) {
        parts[i] = digits(&at, sizes[i]);
        if (parts[i] < 0 || (i < 5 && *at++ != after[i]))
            return NULL;
    }
    if (at < end) {
        int places = (int)(end - at) - 1;
        if (*at++ != '.' || places == 0 || (fraction = digits(&at, places)) < 0)
            return NULL;
        for (; places < 6; places++)
            fraction *= 10;
    }
    PyObject *made = PyDateTimeAPI->DateTime_FromDateAndTime(parts[0], parts[1], parts[2], parts[3], parts[4], parts[5],
                                                             fraction, PyDateTime_TimeZone_UTC, PyDateTimeAPI->DateTimeType);
    if (made == NULL)
        PyErr_Clear();
    return made;
}

/* Steps over a text; 0 where there is another. */
static inline int
follows(const char **at, const char *end, const char *text, Py_ssize_t size)
{
    if (end - *at < size || memcmp(*at, text, (size_t)size) != 0)
        return 0;
    *at += size;
    return 1;
}

#define FOLLOWS(at, end, literal) follows(at, end, literal, (Py_ssize_t)sizeof(literal) - 1)

static int
follows_str(const char **at, const char *end, PyObject *text)
{
    Py_ssize_t size;
    const char *known = PyUnicode_AsUTF8AndSize(text, &size);
    if (known == NULL)
        PyErr_Clear();
    return known != NULL && is_plain(known, size) && follows(at, end, known, size);
}

/* Where the payload ends, and its schema version: 1 unless a field after it says otherwise. */
static const char *
payload_end(const char *payload, const char *end, long long *version)
{
    static const char field[] = ",\"payload_version\":";
    const Py_ssize_t size = sizeof(field) - 1;
    *version = 1;
    if (end - payload < 2 || end[-1] != '}')
        return NULL;
    const char *last = end - 1, *digit = last;
    while (digit > payload && digit[-1] >= '0' && digit[-1] <= '9')
        digit--;
    if (digit == last || digit - payload < size || memcmp(digit - size, field, (size_t)size) != 0)
        return last;
    *version = *digit == '0' ? -1 : parse_number(digit, last);
    return digit - size;
}

static PyObject *
decoded(EnvelopeDecoder *self, const char *start, const char *end, const Stamp *stamp)
{
    PyObject *payload = self->quick ? struct_of(self->quick, start, end, stamp) : NULL;
    if (payload != NULL)
        return payload;
    if (PyErr_Occurred()) {
        if (!PyErr_ExceptionMatches(PyExc_Exception))
            return NULL;
        PyErr_Clear();
    }
    PyObject *text = PyBytes_FromStringAndSize(start, end - start);
    if (text == NULL)
        return NULL;
    payload = PyObject_CallOneArg(self->payload, text);
    Py_DECREF(text);
    return payload;
}

/* The event of a message; NULL, without an exception, where the codec in Python is to look at it. */
PyObject *
envelope_event(EnvelopeDecoder *self, const Frames *frames, const Message *message, PyObject *aggregate_id,
               PyObject *aggregate_type, PyObject *event_type)
{
    const char *at = frames->data + message->body, *end = frames->data + message->end;
    if (!FOLLOWS(&at, end, "{\"id\":\""))
        return NULL;
    const char *id = at, *id_end = memchr(id, '"', (size_t)(end - id));
    if (id_end == NULL || !is_plain(id, id_end - id))
        return NULL;
    at = id_end;
    if (!(FOLLOWS(&at, end, "\",\"aggregate_id\":\"") && follows_str(&at, end, aggregate_id) &&
          FOLLOWS(&at, end, "\",\"event_type\":\"") && follows_str(&at, end, event_type) &&
          FOLLOWS(&at, end, "\",\"aggregate_type\":\"") && follows_str(&at, end, aggregate_type) &&
          FOLLOWS(&at, end, "\",\"timestamp\":\"") && end - at > STAMP_SIZE))
        return NULL;
    Stamp stamp = {.text = at};
    at += STAMP_SIZE;
    if (!FOLLOWS(&at, end, "\",\"version\":"))
        return NULL;
    const char *number = at;
    while (at < end && *at >= '0' && *at <= '9')
        at++;
    long long version = parse_number(number, at), payload_version;
    if (version < 1 || *number == '0' || !FOLLOWS(&at, end, ",\"payload\":"))
        return NULL;
    const char *stop = payload_end(at, end, &payload_version);
    if (stop == NULL || payload_version != self->version)
        return NULL;

    PyObject *value[E_FIELDS] = {0}, *event = NULL;
    value[E_TIMESTAMP] = stamp.value = timestamp_of(stamp.text, STAMP_SIZE);
    if (value[E_TIMESTAMP] == NULL)
        goto done;
    value[E_PAYLOAD] = decoded(self, at, stop, &stamp);
    if (value[E_PAYLOAD] == NULL)
        goto done;
    value[E_ID] = ascii_str(id, id_end - id);
    value[E_AGGREGATE_ID] = Py_NewRef(aggregate_id);
    value[E_TYPE] = Py_NewRef(event_type);
    value[E_AGGREGATE_TYPE] = Py_NewRef(aggregate_type);
    value[E_VERSION] = PyLong_FromLongLong(version);
    value[E_PAYLOAD_VERSION] = Py_NewRef(self->payload_version);
    value[E_POSITION] = PyLong_FromLongLong(message->position);
    value[E_HEADERS] = headers_of(frames, message);
    if (value[E_ID] && value[E_VERSION] && value[E_POSITION] && value[E_HEADERS]) {
        event = self->spare;
        self->spare = NULL;
        if (event == NULL)
            event = self->event_class->tp_alloc(self->event_class, 0);
    }
done:
    if (event == NULL) {
        if (PyErr_Occurred() && PyErr_ExceptionMatches(PyExc_Exception))
            PyErr_Clear();
        for (int i = 0; i < E_FIELDS; i++)
            Py_XDECREF(value[i]);
        return NULL;
    }
    for (int i = 0; i < E_FIELDS; i++)
        Py_XSETREF(SLOT(event, self->at[i]), value[i]);
    return event;
}

/* -- The type ------------------------------------------------------------------------------------------------------- */

static PyObject *
decoder_new(PyTypeObject *type, PyObject *args, PyObject *Py_UNUSED(kwargs))
{
    PyObject *slow, *payload, *quick, *event_class, *payload_version;
    if (!PyArg_ParseTuple(args, "OOOO!O!", &slow, &payload, &quick, &PyType_Type, &event_class, &PyLong_Type, &payload_version))
        return NULL;
    long long version = PyLong_AsLongLong(payload_version);
    if (version == -1 && PyErr_Occurred())
        return NULL;
    Py_ssize_t at[E_FIELDS];
    if (slots_of(event_class, event_fields, E_FIELDS, at) < 0)
        return NULL;
    if (PyType_HasFeature((PyTypeObject *)event_class, Py_TPFLAGS_HAVE_GC)) {
        PyErr_SetString(PyExc_TypeError, "events are expected to be without gc");
        return NULL;
    }
    EnvelopeDecoder *self = (EnvelopeDecoder *)type->tp_alloc(type, 0);
    if (self == NULL)
        return NULL;
    self->slow = Py_NewRef(slow);
    self->payload = Py_NewRef(payload);
    self->quick = Py_IS_TYPE(quick, &StructDecoder_Type) ? (StructDecoder *)Py_NewRef(quick) : NULL;
    self->event_class = (PyTypeObject *)Py_NewRef(event_class);
    self->payload_version = Py_NewRef(payload_version);
    self->version = version;
    memcpy(self->at, at, sizeof(at));
    return (PyObject *)self;
}

static void
decoder_dealloc(EnvelopeDecoder *self)
{
    Py_XDECREF(self->slow);
    Py_XDECREF(self->payload);
    Py_XDECREF((PyObject *)self->quick);
    Py_XDECREF((PyObject *)self->event_class);
    Py_XDECREF(self->payload_version);
    Py_XDECREF(self->spare);
    Py_TYPE(self)->tp_free((PyObject *)self);
}

static PyObject *
decoder_call(EnvelopeDecoder *self, PyObject *args, PyObject *kwargs)
{
    return PyObject_Call(self->slow, args, kwargs);
}

PyTypeObject EnvelopeDecoder_Type = {
    PyVarObject_HEAD_INIT(NULL, 0).tp_name = "refold.speedups.EnvelopeDecoder",
    .tp_basicsize = sizeof(EnvelopeDecoder),
    .tp_new = decoder_new,
    .tp_dealloc = (destructor)decoder_dealloc,
    .tp_call = (ternaryfunc)decoder_call,
    .tp_flags = Py_TPFLAGS_DEFAULT,
    .tp_doc = "EnvelopeDecoder(slow, payload, quick, event_class, payload_version): `slow`, which `dispatch` does without where it can.",
};
