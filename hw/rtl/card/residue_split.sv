// Divides the elements of a command among the lanes.
//
// Lane r of Rings gets elements first .. first + n - 1 with first = r*q + min(r, rem) and
// n = q + (r < rem), where q = count / Rings and rem = count mod Rings; with each_i all get `count`
// elements, the same ones. Its addresses are those of its first element. Shares leave one by one,
// lane 0 first.
// Latency: 32 cycles for the division (none if Rings = 1), 6 for the products, two a lane; equal for
// all operands. Not for: counts that are secret.
`default_nettype none

module residue_split
  import residue_engine_pkg::*;
#(
  parameter int unsigned Rings = 4,
  localparam int unsigned RingBits = (Rings > 1) ? $clog2(Rings) : 1
) (
  input  wire  logic                clk,
  input  wire  logic                rst_n,
  input  wire  logic                start_i,     // the other inputs stay until busy_o falls
  input  wire  logic [31:0]         count_i,
  input  wire  logic                each_i,
  // Of element 0: src_a, src_b, exponents, dst, lowest first; and strides in units of 16 bytes
  input  wire  logic [3:0][63:0]    bases_i,
  input  wire  logic [3:0][15:0]    strides_i,
  input  wire  logic [3:0]          dst_log2_i,  // results an element, log2: 0 .. 8
  output       logic                busy_o,
  // Shares
  output       logic                m_valid,
  output       logic [RingBits-1:0] m_ring,
  output       lane_job_t           m_share
);

  localparam int unsigned Fields = 4;
  localparam int unsigned RemBits = RingBits + 1;
  localparam int unsigned StepBits = 32 + 16 + 4 + 8;

  typedef enum logic [2:0] {StIdle, StDivide, StScale, StShare, StAdvance} state_e;
  state_e state_q;

  logic [4:0]                       step_q;      // bit of the division, field of the products
  logic [31:0]                      quotient_q;  // the dividend leaves it as the quotient enters
  logic [RemBits-1:0]               rem_q;
  logic [RingBits-1:0]              ring_q;
  logic [31:0]                      first_q;
  logic [Fields-1:0][63:0]          addr_q;
  logic [Fields-1:0][StepBits-1:0]  jump_q;      // quotient * stride in bytes
  logic [Fields-1:0][15:0]          stride_q;
  logic [47:0]                      product_q;

  wire logic last_ring = (ring_q == RingBits'(Rings - 1));
  wire logic extra = !each_i && (RemBits'(ring_q) < rem_q);

  // Long division: one bit of the dividend a cycle.
  wire logic [RemBits:0] partial = {rem_q, quotient_q[31]};
  wire logic             fits    = (partial >= (RemBits + 1)'(Rings));

  assign busy_o  = (state_q != StIdle);
  assign m_valid = (state_q == StShare);
  assign m_ring  = ring_q;
  assign m_share = '{
    first: first_q, count: quotient_q + 32'(extra),
    src_a: addr_q[0], src_b: addr_q[1], exponents: addr_q[2], dst: addr_q[3]
  };

  always_ff @(posedge clk) begin
    if (!rst_n) begin
      state_q <= StIdle;
    end else begin
      unique case (state_q)
        StIdle:    if (start_i) state_q <= (Rings == 1 || each_i) ? StScale : StDivide;
        StDivide:  if (step_q == 5'd31) state_q <= StScale;
        StScale:   if (step_q == 5'(Fields)) state_q <= StShare;
        StShare:   state_q <= StAdvance;
        StAdvance: state_q <= last_ring ? StIdle : StShare;
        default:   state_q <= StIdle;
      endcase
    end

    unique case (state_q)
      StIdle: begin
        step_q     <= '0;
        quotient_q <= count_i;
        rem_q      <= '0;
        ring_q     <= '0;
        first_q    <= '0;
        addr_q     <= bases_i;
        stride_q   <= strides_i;
      end
      StDivide: begin
        step_q     <= step_q + 5'd1;  // wraps to 0
        quotient_q <= {quotient_q[30:0], fits};
        rem_q      <= RemBits'(fits ? partial - (RemBits + 1)'(Rings) : partial);
      end
      // One multiplier for all fields; its products arrive a cycle later.
      StScale: begin
        step_q    <= step_q + 5'd1;
        product_q <= quotient_q * stride_q[step_q[1:0]];
        if (step_q != '0) begin
          jump_q <= {StepBits'({product_q, 4'd0}), jump_q[Fields-1:1]};
          if (step_q == 5'(Fields))
            jump_q[Fields-1] <= StepBits'({product_q, 4'd0}) << dst_log2_i;
        end
      end
      StShare: begin
        for (int unsigned i = 0; i < Fields; i++) addr_q[i] <= addr_q[i] + 64'(jump_q[i]);
        if (!each_i) first_q <= first_q + quotient_q;
      end
      StAdvance: begin
        if (extra) begin
          for (int unsigned i = 0; i < Fields; i++)
            addr_q[i] <= addr_q[i] + (64'({stride_q[i], 4'd0}) << (i == 3 ? dst_log2_i : 4'd0));
          first_q <= first_q + 32'd1;
        end
        ring_q <= ring_q + RingBits'(1);
      end
      default: ;
    endcase
  end

endmodule

`default_nettype wire
